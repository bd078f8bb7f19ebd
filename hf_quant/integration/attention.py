"""Which models run attention on the native kernel: quantized ones, where their ``sdpa`` is Transformers' own.

The setting that model code reads, ``config._attn_implementation``, stays what the user or the class chose: models build
their masks, and continuous batching its cache, by that name. What is changed is the function behind the name ``sdpa``
in the ``AttentionInterface``, once, when the first model is quantized. It looks for a mark on the attention module that
calls it, and does what it did before where there is none. All that is borrowed of Transformers is in this file.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_quant.integration.native_attention import attend
from hf_quant.kernels.native.library import load
from hf_quant.modules.swap import quantized_modules

logger = logging.getLogger(__name__)

REPLACED = "sdpa"
"""The implementation whose calls are taken over; any other is the user's own choice."""

MARK = "_hf_quant_attention"
"""Attribute of a module whose calls of ``sdpa`` are taken over."""


def choose(model: Any) -> None:
    """Let modules of `model`, if it has anything on native kernels, use native attention where they would use ``sdpa``.

    A model whose ``sdpa`` somebody else has registered keeps that.
    """
    if not any(module.fuses for _, module in quantized_modules(model)):
        return
    if not install():
        logger.warning("the registered attention function %r is not Transformers' own: it is left as it is", REPLACED)
        return
    for module in model.modules():
        module.__dict__[MARK] = _MARKED


def restore(model: Any) -> None:
    """Undo `choose`."""
    for module in model.modules():
        module.__dict__.pop(MARK, None)


def uses_native(model: Any) -> bool:
    """Whether `choose` has chosen `model`."""
    return MARK in model.__dict__


def install() -> bool:
    """Take the place of ``sdpa``; False where it is not Transformers' own, which is left as it is."""
    found = ALL_ATTENTION_FUNCTIONS[REPLACED]
    if found is sdpa_attention_forward:
        AttentionInterface.register(REPLACED, sdpa_or_native)
        return True
    return found is sdpa_or_native


@functools.wraps(sdpa_attention_forward)
def sdpa_or_native(module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """``sdpa``, but native attention for modules with a mark and arguments that it covers."""
    if MARK in getattr(module, "__dict__", ()):
        output = attend(module, *args, **kwargs)
        if output is not None:
            return output, None
    return sdpa_attention_forward(module, *args, **kwargs)


class _Mark:
    """Value of `MARK`: a model that is unpickled in another process installs what its modules are marked for."""

    def __reduce__(self) -> Any:
        return _installed_mark, ()


def _installed_mark() -> _Mark:
    if load() is not None:
        install()
    return _MARKED


_MARKED = _Mark()
