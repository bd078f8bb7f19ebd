"""A float model without its numbers, and what a plan makes of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hf_quant.config.plan import Candidate, Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError, UnsupportedModel
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import candidates, share_tied, swap, tied_modules


def require_float(model: nn.Module) -> None:
    """Raise UnsupportedModel if `model` is quantized already."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule):
            raise UnsupportedModel(f"{name} is quantized already: plans are priced for the float model it came from")


def skeleton(model: nn.Module) -> nn.Module:
    """A copy on the meta device: the same modules, ties and dtypes, and no memory to speak of."""
    stand_ins: dict[int, Any] = {}
    for parameter in model.parameters():
        meta = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        stand_ins[id(parameter)] = nn.Parameter(meta, requires_grad=False)
    for buffer in model.buffers():
        stand_ins[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    return copy.deepcopy(model, stand_ins)


def carried_out(model: nn.Module, plan: Plan) -> tuple[dict[str, Scheme], dict[str, str]]:
    """The modules that `plan` quantizes in `model`, and the ties among them.

    As when a model is loaded, a module that is tied to one that stays float stays float with it.

    Raises:
        PlanError: A pattern matches nothing, a group size does not fit, or tied modules get different weight schemes.
    """
    found: dict[str, Candidate] = candidates(model)
    chosen = {name: scheme for name, scheme in plan.resolve(found).modules.items() if scheme is not None}
    every = tied_modules(model)
    left = len(chosen) + 1
    while len(chosen) < left:
        left = len(chosen)
        for target, source in every.items():
            if (target in chosen) != (source in chosen):
                chosen.pop(target, None)
                chosen.pop(source, None)
    ties = {target: source for target, source in every.items() if target in chosen}
    for target, source in ties.items():
        if chosen[target].weight != chosen[source].weight:
            raise PlanError(
                f"{target} ({chosen[target]}) is tied to {source} ({chosen[source]}): give both one weight scheme"
            )
    return chosen, ties


def quantized_skeleton(model: nn.Module, plan: Plan) -> nn.Module:
    """What `plan` makes of a float model, without numbers.

    Raises:
        PlanError: The plan does not fit the model.
        UnsupportedModel: The model is quantized already.
    """
    require_float(model)
    chosen, ties = carried_out(model, plan)
    copied = skeleton(model)
    swap(copied, Plan(chosen), ties, device="meta")
    share_tied(copied, ties)
    return copied
