"""A float model without its numbers, and what a plan makes of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hf_quant.config.plan import Plan
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.swap import share_tied, swap
from hf_quant.opening.open import opens_model


def require_float(model: nn.Module) -> None:
    """Raise UnsupportedModel if `model` is quantized already."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule):
            raise UnsupportedModel(f"{name} is quantized already: plans are priced for the float model it came from")


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device: the same modules, ties and dtypes, without memory for tensors."""
    stand_ins: dict[int, Any] = {}
    for parameter in model.parameters():
        meta = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        stand_ins[id(parameter)] = nn.Parameter(meta, requires_grad=False)
    for buffer in model.buffers():
        stand_ins[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    return copy.deepcopy(model, stand_ins)


@opens_model
def quantized_skeleton(model: nn.Module, plan: Plan, inventory: Inventory | None = None) -> nn.Module:
    """A float model quantized by a plan, on the meta device.

    Args:
        model: Float model on any device.
        plan: Module names or patterns to schemes.
        inventory: The model's inventory, if it was made already; None: it is made here.

    Raises:
        PlanError: The plan does not fit the model.
        UnsupportedModel: The model is quantized already.
    """
    require_float(model)
    inventory = Inventory.of(model) if inventory is None else inventory
    chosen = inventory.carried_out(plan.resolve(inventory.candidates).modules, {})
    ties = inventory.ties_among(chosen)
    copied = skeleton(model)
    swap(copied, Plan(chosen), ties, device="meta")
    share_tied(copied, ties)
    return copied
