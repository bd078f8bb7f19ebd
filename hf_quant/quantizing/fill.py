"""Putting solved weights into the quantized modules that take the place of float ones."""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.algorithms.bias_correction import bias_correction
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import Places, share_tied, swap


def replace_module(
    model: Any,
    name: str,
    scheme: Scheme,
    ties: dict[str, str],
    solved: QuantizedWeight | None,
    mean: torch.Tensor | None = None,
    input_grid: tuple[torch.Tensor, torch.Tensor | None] | None = None,
    places: Places | None = None,
) -> Any:
    """Put a quantized module where the float module `name` was.

    Args:
        model: Changed in place.
        name: Full name of the module.
        scheme: Resolved for it.
        ties: Tied module to the owner of its weight; a module that is tied to another gets no weight here.
        solved: Codes, or None where the module is tied or its scheme stores floats.
        mean: Means of the inputs, if the bias is to make up for the mean error.
        input_grid: Scale and zero point of static inputs.
        places: Places of the model's modules, where they are known.

    Returns:
        The new module.
    """
    module = model.get_submodule(name)
    weight = None if name in ties else weight_matrix(module).detach()
    swap(model, Plan({name: scheme}), ties, places=places)
    replaced = model.get_submodule(name)
    if getattr(module, "bias", None) is not None:
        replaced.bias = module.bias  # the parameter itself, which another module may share
    if isinstance(replaced, QuantizedModule) and input_grid is not None:
        scale, zero_point = input_grid
        replaced.input_scale.fill_(float(scale))  # type: ignore[union-attr]
        if replaced.input_zero_point is not None and zero_point is not None:
            replaced.input_zero_point.fill_(int(zero_point))
    if weight is None:
        share_tied(model, {name: ties[name]})  # what was not replaced yet is shared at the end
        return replaced
    if isinstance(replaced, StoredModule):
        replaced.weight.data.copy_(module.weight.data)
        return replaced
    assert isinstance(replaced, QuantizedModule) and solved is not None
    replaced.fill(solved)
    if mean is not None and getattr(replaced, "bias", None) is not None:
        correction = bias_correction(weight, replaced.dequantized_weight(), mean)
        bias: torch.Tensor = replaced.bias  # type: ignore[assignment]
        replaced.bias = torch.nn.Parameter((bias.float() + correction).to(bias.dtype), requires_grad=False)
    return replaced
