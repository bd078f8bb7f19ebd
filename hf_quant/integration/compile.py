"""``torch.compile`` for decoding: without checking the whole model again before every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torch._dynamo
from torch import nn
from transformers import CompileConfig

_MODEL = ("self", "func.__self__")
_CACHE = "past_key_values"
_GLOBALS = "G["
_UNCHECKED = {"size_asserts": False, "alignment_asserts": False}
"""For inductor, which would check sizes of all weights and results of ops for every token: none can have changed."""


def compile(model: nn.Module, **options: Any) -> Callable[..., Any]:
    """``torch.compile`` as one graph, guarded on its inputs only.

    A guard is a check, before each call, of something that the graph took for granted. For a language model there are
    thousands, nearly all of them on modules that do not change, and they take a millisecond per token. Here the inputs
    are checked, the first layer of the cache, the gradient mode and whether the model trains; **a model that is changed
    afterwards (by adapters, other kernels or ``dequantize``) has to be compiled again**.

    Args:
        model: A model, quantized or not; for decoding call it with one token and a ``StaticCache``.
        **options: Further arguments of ``torch.compile``; those given here have precedence.

    Returns:
        What to call in place of the model.
    """
    unchecked = _UNCHECKED if options.get("backend", "inductor") == "inductor" else {}
    backend_options = {"guard_filter_fn": guards_on_inputs, **unchecked, **options.pop("options", {})}
    compiled: Any = torch.compile(model, **{"fullgraph": True, "dynamic": False, "options": backend_options, **options})
    compiled.forward = _with_weights_in_the_graph(compiled.forward)
    return compiled


def _with_weights_in_the_graph(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of a compiled model, which makes weights part of its graph when it is traced.

    Otherwise they are inputs of the graph, hundreds that are looked up in the modules for every token. Dynamo has no
    argument for it, and what is traced, and when, is known by nobody before the call.
    """
    settings: Any = torch._dynamo.config

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        # config.patch() would do the same and take a hundred times as long.
        before = settings.install_free_tensors
        settings.install_free_tensors = True
        try:
            return forward(*args, **kwargs)
        finally:
            settings.install_free_tensors = before

    return call


def compile_config() -> CompileConfig:
    """The same for ``model.generate(..., cache_implementation="static", compile_config=hf_quant.compile_config())``.

    Transformers compiles on the CPU only if it is told to, as this does.
    """
    config = CompileConfig(
        fullgraph=True,
        dynamic=False,
        mode=None,  # options exclude a mode
        options={"guard_filter_fn": guards_on_inputs, **_UNCHECKED},
    )
    config._compile_all_devices = True
    return config


def guards_on_inputs(guards: Sequence[Any]) -> list[bool]:
    """Which guards to keep, for the option ``guard_filter_fn`` of ``torch.compile``."""
    return [_is_kept(guard.name) for guard in guards]


def _is_kept(name: str) -> bool:
    if name == "self.training":
        return True
    # What belongs to a global may be reached through others: "dict(type(G['...']).__dict__)['...']".
    if name.startswith(_MODEL) or _GLOBALS in name:
        return False
    # All layers of a cache have one shape, and it only changes with the cache.
    return _CACHE not in name or f"{_CACHE}'].layers[0]" in name
