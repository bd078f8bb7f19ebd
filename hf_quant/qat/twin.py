"""The quantized module that a fake-quantized one stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.joined import base_of
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import SWAPS, counterpart
from hf_quant.qat.input import StaticInput

QUANTIZERS = ("weight_quantizer", "input_quantizer")

Trained = Any
"""What a twin is made of: a module that trains on rounded weights, of `qat.modules`, which imports this file."""


@torch.no_grad()
def quantized_twin(module: Trained, tied: bool) -> QuantizedModule:
    """The quantized module, of the base of a derived class, that a fake-quantized one on codes would be stored as.

    Args:
        module: Fake-quantized module; not changed.
        tied: Whether the weight belongs to another module, which will share it: the result gets no codes here.

    Raises:
        WeightError: The weight holds NaN or Inf.
    """
    build, _ = SWAPS[base_of(module.float_class)]
    twin = build(module, module.scheme, tied, module.weight.device)
    assert isinstance(twin, QuantizedModule)
    if not tied:
        solved = module.rounding.solved(module.matrix(), f"{module.name}.weight")
        twin.fill(solved)
    if getattr(module, "bias", None) is not None:
        twin.bias = module.bias  # the parameter itself, which another module may share
    static = module.input_quantizer
    if isinstance(static, StaticInput):
        scale, zero_point = static.solved()
        assert twin.input_scale is not None
        twin.input_scale.copy_(scale.view(1))
        if twin.input_zero_point is not None and zero_point is not None:
            twin.input_zero_point.copy_(zero_point.view(1))
    return twin.train(module.training)


def quantized_twins(sharing: Sequence[Trained]) -> list[QuantizedModule]:
    """Quantized modules of all that share one weight, ready to compute, on one set of codes."""
    twins = [quantized_twin(module, tied=index > 0) for index, module in enumerate(sharing)]
    for twin in twins[1:]:
        twin.share(twins[0])
    for twin in twins:
        twin.prepare()
    return twins


@torch.no_grad()
def stored_twin(module: Trained) -> StoredModule:
    """A module that stores the weight of `module` in the float format of its scheme."""
    _, build = SWAPS[base_of(module.float_class)]
    plain = float_twin(module)
    twin = counterpart(plain, build(plain, module.scheme, False, module.weight.device))
    assert isinstance(twin, StoredModule)
    weight = module.weight if module.adapter is None else module.adapter(module.weight)
    twin.weight.copy_(weight)
    return twin.train(module.training)


def float_twin(module: Trained) -> nn.Module:
    """The float module that `module` was, with the same parameters."""
    restored: nn.Module = module.float_class.__new__(module.float_class)
    nn.Module.__init__(restored)
    own = ("scheme", "name", "sharing", "adapter", "adopted", "_twins")
    for key, value in module.__dict__.items():
        if key not in own:
            restored.__dict__[key] = value.copy() if isinstance(value, dict | set) else value
    for quantizer in QUANTIZERS:
        restored._modules.pop(quantizer, None)
    return restored
