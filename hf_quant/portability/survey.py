"""The quantized modules of a model as targets look at them, which one run of the model tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.config.scheme import Scheme
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.random_inputs import run_on_random_inputs
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.joined import FLOATS, base_of
from hf_quant.modules.stored import StoredModule
from hf_quant.portability.facts import Part
from hf_quant.portability.kinds import made_as

_Counterpart = QuantizedModule | StoredModule


def parts_of(model: Any, runs: bool = True) -> tuple[list[Part], str]:
    """Look at a quantized model; it is run once, on random inputs of what its config says that it reads.

    Args:
        model: Quantized Transformers model, in memory.
        runs: Whether to run it. Siblings and inputs are not known otherwise.

    Returns:
        Its quantized modules in order, and what could not be found out, empty if nothing.
    """
    modules = {name: each for name, each in model.named_modules() if isinstance(each, _Counterpart)}
    heads = Inventory.of(model).heads
    kinds = made_as(model, {name: each.float_class for name, each in modules.items()})
    try:
        calls, note = (_calls(model) if runs else {}), ""
    except EvaluationError as error:
        calls, note = {}, f"not known is which modules are computed together, and what their inputs are: {error}"
    together: dict[tuple[str, int], dict[str, Scheme | None]] = {}
    for name, (address, _) in calls.items():
        scheme = scheme_of(modules[name]) if name in modules else None
        together.setdefault((name.rpartition(".")[0], address), {})[name] = scheme
    owners: dict[int, str] = {}
    for is_tied in (False, True):
        for name, module in modules.items():
            if getattr(module, "tied", False) == is_tied:
                owners.setdefault(id(module.weight), name)
    parts = []
    for name, module in modules.items():
        is_table = issubclass(base_of(module.float_class), nn.Embedding)
        call = calls.get(name)
        siblings = together[name.rpartition(".")[0], call[0]] if call else {}
        parts.append(
            Part(
                name,
                "embedding" if is_table else "head" if name in heads else "linear",
                _width(module),
                scheme_of(module),
                kinds[name],
                "" if (owner := owners[id(module.weight)]) == name else owner,
                siblings if len(siblings) > 1 else {},
                call[1] if call else None,
            )
        )
    return parts, note


def scheme_of(module: QuantizedModule | StoredModule) -> Scheme:
    """The scheme of a module that is quantized, or stored as floats of another dtype."""
    return module.spec.scheme if isinstance(module, QuantizedModule) else module.scheme


def _width(module: QuantizedModule | StoredModule) -> int:
    if isinstance(module, QuantizedModule):
        return module.spec.in_features
    return int(module.weight.shape[1 if isinstance(module, nn.Linear | nn.Embedding) else 0])


@torch.no_grad()
def _calls(model: Any) -> dict[str, tuple[int, int]]:
    """Module to the address of its input, in which others of the same input agree, and to the dimensions of that."""
    found: dict[str, tuple[int, int]] = {}
    kept: list[Tensor] = []  # so that no two inputs have one address

    def watching(name: str) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                kept.append(args[0])
                found.setdefault(name, (id(args[0]), args[0].ndim))

        return watch

    modules: list[tuple[str, nn.Module]] = list(model.named_modules())
    linears = [(name, each) for name, each in modules if isinstance(each, FLOATS)]
    handles = [each.register_forward_pre_hook(watching(name)) for name, each in linears]
    training = model.training
    model.eval()
    try:
        run_on_random_inputs(model, lambda inputs: model(**inputs))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found
