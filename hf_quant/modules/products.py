"""Products with a quantized weight, and rows of it, for code that holds the weight and not its module."""

from __future__ import annotations

import torch

from hf_quant.formats.rotation import rotate
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import fake_quantize_input, rotate_input
from hf_quant.modules.weight import Weight


def multiplied(weight: Weight, input: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``input @ weight.T + bias`` on the kernel that the module of the weight uses: ``[..., width] -> [..., rows]``.

    Inputs are quantized as the module does, unless it has a static grid for them, which only the module knows.
    """
    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    spec = weight.products[0] if len(weight.products) == 1 else weight.plain_spec
    is_static = spec.scheme.input is not None and not spec.scheme.input.dynamic
    if is_static:
        weight.tell_read("linear")
    if is_static or type(weight.memory) is not torch.Tensor:  # traced: the graph would make anew what a kernel takes
        return torch.nn.functional.linear(input, weight.dequantize().to(input.dtype), bias)
    kernel, arguments = weight.ready(spec)
    operands = LinearOperands(weight.operands().weight, bias, packed=arguments)
    return ops.linear(input, operands, spec, kernel.name)


def looked_up(weight: Weight, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of the weight, ``[*indices.shape, width]`` in `dtype`."""
    if type(weight.memory) is not torch.Tensor:
        return torch.nn.functional.embedding(indices, weight.dequantize().to(dtype))
    weight.lay_out()
    layout = weight.layout
    if layout is not None and layout.kernel.look_up is not None:
        like = torch.empty(0, dtype=dtype, device=weight.device)
        arguments = layout.kernel.arguments(layout.tensors, None, layout.spec)
        return layout.kernel.look_up(indices, arguments, layout.spec, like)
    if layout is not None:
        return torch.nn.functional.embedding(indices, weight.dequantize().to(dtype))
    return ops.embedding(indices, weight.operands().weight, weight.plain_spec, dtype)


def multiplied_by_floats(
    weight: torch.Tensor, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec
) -> torch.Tensor:
    """What the module computes on the numbers that its codes stand for, where floats have taken their place.

    Libraries that know no codes bring floats: from disk, or gathered from other processes. Inputs are rounded as the
    scheme says; gradients pass straight through.

    Args:
        weight: Floats ``[rows, width]``, not rotated.
        input: ``[..., width]``.
        operands: Bias and grid of static inputs; its weight is not read.
        spec: Scheme and sizes of the module.
    """
    rows = rotate_input(input.reshape(-1, spec.in_features), spec)
    if spec.scheme.input is not None:
        with torch.no_grad():
            rounding = fake_quantize_input(input.reshape(-1, spec.in_features), operands, spec) - rows
        rows = rows + rounding
    size = spec.scheme.weight.rotation
    matrix = weight if size is None else rotate(weight, size)
    output = torch.nn.functional.linear(rows, matrix.to(rows.dtype))
    if operands.bias is not None:
        output = output + operands.bias
    return output.to(input.dtype).view(*input.shape[:-1], spec.out_features)
