"""What a module gives in exact arithmetic, and how far from it codes may lead that the last bit of a float decides."""

from __future__ import annotations

import torch

from hf_quant.export.onnx.blocks import integers
from hf_quant.formats import even_format
from hf_quant.kernels.base import LinearOperands
from hf_quant.kernels.reference import ReferenceKernel, embedding
from hf_quant.kernels.weights import quantize_input, rotate_input
from hf_quant.modules.base import QuantizedModule

_NEAR = 1e-4
"""Steps from a border within which a sum in another order, or a division for a product, may put a number across."""


def exact_output(module: QuantizedModule, input: torch.Tensor) -> torch.Tensor:
    """What a quantized module's numbers give in exact arithmetic, float32 ``[..., out]``, or rows of a table.

    Args:
        module: It; kernels that round to 16 bits do not matter here.
        input: float32 ``[..., in]``, or ids ``[...]``.
    """
    if not module.multiplies:
        return embedding(input, module.neutral(), module.spec, torch.float32)
    bias = module.bias if isinstance(module.bias, torch.Tensor) else None
    operands = LinearOperands(module.neutral(), bias, module.input_scale, module.input_zero_point)
    return ReferenceKernel().run(input.flatten(0, -2), operands, module.spec).unflatten(0, input.shape[:-1])


def allowed_at_ties(module: QuantizedModule, input: torch.Tensor) -> torch.Tensor:
    """How far the outputs of tokens may be off, float32 ``[tokens]``, where numbers at borders get the other code.

    Args:
        module: Linear with quantized inputs; zeros where they are floats.
        input: float32 ``[tokens, in]``, as the module gets it.
    """
    spec, scheme = module.spec, module.spec.scheme.input
    if scheme is None:
        return torch.zeros(len(input))
    _, scale, _ = quantize_input(input, module.operands(), spec)
    real = rotate_input(input, spec).to(torch.float32)
    steps = scale.expand(len(input), -1) if scheme.group_size is None else scale.repeat_interleave(scheme.group_size, 1)
    positions = real / steps
    near = ((positions - positions.floor() - 0.5).abs() < _NEAR) & (
        positions.abs() < even_format(scheme).quant_max * 2.1
    )
    weight = integers(module.neutral(), spec.matrix)
    levels = weight.codes.unflatten(-1, (weight.scale.shape[1], -1)).to(torch.float32)
    if weight.zero_point is not None:
        levels = levels - weight.zero_point[..., None]
    columns = (levels * weight.scale[..., None]).flatten(-2).norm(dim=0)
    return (near * steps) @ columns
