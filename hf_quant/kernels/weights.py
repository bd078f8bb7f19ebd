"""Codes to floats, and activations to codes, as every ATen kernel needs them."""

from __future__ import annotations

import torch

from hf_quant.formats import affine_format
from hf_quant.formats.packing import unpack
from hf_quant.kernels.base import LinearOperands, LinearSpec


def decode_rows(operands: LinearOperands, spec: LinearSpec, rows: slice) -> torch.Tensor:
    """float32 weight of the output channels `rows`, ``[rows, in]``."""
    scheme = spec.scheme.weight
    codes = unpack(operands.weight[rows], scheme.bits, spec.in_features).unflatten(-1, (spec.groups, spec.group_size))
    scale, zero_point = operands.weight_scale, operands.weight_zero_point
    if scheme.granularity != "tensor":
        scale = scale[rows]
        zero_point = None if zero_point is None else zero_point[rows]
    zero_point = None if zero_point is None else zero_point[..., None]
    return affine_format(scheme).decode(codes, scale[..., None], zero_point).flatten(-2)


def quantize_input(
    input: torch.Tensor, operands: LinearOperands, spec: LinearSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes ``[tokens, in]``, scale (``[tokens, 1]`` or ``[1, 1]``) and zero point of an input that has a scheme.

    NaN in a token makes its scale NaN, so that no kernel turns it into a number.
    """
    scheme = spec.scheme.input
    assert scheme is not None
    format = affine_format(scheme)
    if scheme.dynamic:
        return format.quantize_input(input, per_token=scheme.granularity == "token")
    assert operands.input_scale is not None
    scale, zero_point = operands.input_scale.view(1, 1), operands.input_zero_point
    zero_point = None if zero_point is None else zero_point.view(1, 1)
    codes = format.encode(input.to(torch.float32), scale, zero_point)
    # Codes cannot say NaN, and a static scale does not come from the input: each token's scale carries it.
    return codes, scale.masked_fill(input.isnan().any(-1, keepdim=True), torch.nan), zero_point


def fake_quantize_input(input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
    """The float32 values that the quantized input stands for; `input` itself when the scheme has none."""
    if spec.scheme.input is None:
        return input
    return affine_format(spec.scheme.input).decode(*quantize_input(input, operands, spec))
