"""Products with a quantized weight, and rows of it, for code that holds the weight and not its module."""

from __future__ import annotations

import torch

from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearOperands
from hf_quant.modules.weight import Weight


def multiplied(weight: Weight, input: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``input @ weight.T + bias`` on the kernel that the module of the weight uses: ``[..., width] -> [..., rows]``.

    Inputs are quantized as the module does, unless it has a static grid for them, which only the module knows.
    """
    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    spec = weight.products[0] if len(weight.products) == 1 else weight.plain_spec
    if spec.scheme.input is not None and not spec.scheme.input.dynamic:
        spec = weight.plain_spec
        if weight.layout is not None:
            return torch.nn.functional.linear(input, weight.dequantize().to(input.dtype), bias)
    kernel, arguments = weight.ready(spec)
    plain = weight.operands()
    operands = LinearOperands(plain.weight, plain.weight_scale, plain.weight_zero_point, bias, packed=arguments)
    return ops.linear(input, operands, spec, kernel.name)


def looked_up(weight: Weight, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of the weight, ``[*indices.shape, width]`` in `dtype`."""
    weight.lay_out()
    layout = weight.layout
    if layout is not None and layout.kernel.look_up is not None:
        like = torch.empty(0, dtype=dtype, device=weight.device)
        arguments = layout.kernel.arguments(layout.tensors, None, layout.spec)
        return layout.kernel.look_up(indices, arguments, layout.spec, like)
    if layout is not None:
        return torch.nn.functional.embedding(indices, weight.dequantize().to(dtype))
    plain = weight.operands()
    return ops.embedding(indices, plain.weight, plain.weight_scale, plain.weight_zero_point, weight.plain_spec, dtype)
