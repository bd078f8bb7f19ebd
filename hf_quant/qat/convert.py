"""Quantized modules in the place of fake-quantized ones."""

from __future__ import annotations

import torch
from torch import nn

from hf_quant.modules.swap import counterpart, exchange, share_tied
from hf_quant.opening.open import close
from hf_quant.qat.check import check_grids
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.qat.ranges import initialise_inputs
from hf_quant.qat.sharded import unwrap
from hf_quant.qat.twin import float_twin, quantized_twin, stored_twin


@torch.no_grad()
def convert(model: nn.Module, ties: dict[str, str]) -> None:
    """Put the codes into quantized modules, in place: those that the fake-quantized model evaluated with.

    Args:
        model: Model with fake-quantized modules, from `prepare`; changed in place.
        ties: Module whose weight belongs to another module, to that owner, as given to `prepare`.

    Raises:
        TrainingError: A learned scale is not one (`check_grids`); the model is as it was.
        CalibrationError: A static input was never observed; the model is as it was.
        WeightError: A weight holds NaN or Inf; the model is as it was.
    """
    check_grids(model)
    unwrap(model)
    made: dict[str, nn.Module] = {}
    initialise_inputs(model)
    for name, module in fake_quantized_modules(model):
        if not module.scheme.weight.has_scales:
            made[name] = stored_twin(module)
            continue
        made[name] = counterpart(float_twin(module), quantized_twin(module, tied=name in ties))
    exchange(model, made)
    share_tied(model, ties)


def take_out(model: nn.Module) -> None:
    """Put the float modules back, with the masters as training left them, in place; experts are stacked again."""
    exchange(model, {name: float_twin(module) for name, module in fake_quantized_modules(model)})
    close(model)
