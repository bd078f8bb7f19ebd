"""Codes to floats, and activations to codes, as every ATen kernel needs them."""

from __future__ import annotations

import torch

from hf_quant.formats import even_format, format_of
from hf_quant.formats.rotation import rotate
from hf_quant.formats.zero_points import unpack_zero_points
from hf_quant.kernels.base import LinearOperands, LinearSpec


def weight_zero_points(operands: LinearOperands, spec: LinearSpec, rows: slice = slice(None)) -> torch.Tensor | None:
    """Zero points of a weight on an even grid, int8 (int16 for 16 bits) like its scales; None when symmetric.

    Those of the output channels `rows`, where the weight has more than one scale.
    """
    words = operands.weight.get("zero_point")
    if words is None:
        return None
    rows = slice(None) if spec.scheme.weight.granularity == "tensor" else rows
    return unpack_zero_points(words, spec.scheme.weight.bits, spec.scale_shape, rows)


def decode_rows(operands: LinearOperands, spec: LinearSpec, rows: slice) -> torch.Tensor:
    """float32 weight of the output channels `rows`, ``[rows, in]``, rotated where the scheme says so."""
    return format_of(spec.scheme.weight).decode_rows(operands.weight, spec.matrix, rows)


def rotate_input(input: torch.Tensor, spec: LinearSpec) -> torch.Tensor:
    """`input` as the scheme rotates it, in float32; as it is without a rotation."""
    size = spec.scheme.weight.rotation
    return input if size is None else rotate(input, size)


def quantize_input(
    input: torch.Tensor, operands: LinearOperands, spec: LinearSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes ``[tokens, in]``, scale (``[tokens, 1]``, ``[tokens, groups]`` or ``[1, 1]``) and zero point of an input
    that has a scheme, rotated before it is quantized where the scheme says so.

    NaN or Inf in a token makes its scale NaN, so that no kernel turns it into a number, and spoils no other token.
    """
    scheme = spec.scheme.input
    assert scheme is not None
    format = even_format(scheme)
    real = rotate_input(input, spec).to(torch.float32)
    # Codes cannot say NaN: each token's scale carries it.
    spoiled = ~real.isfinite().all(-1, keepdim=True)
    real = real.masked_fill(spoiled, 0.0)
    if scheme.dynamic:
        per_tensor = scheme.granularity == "tensor"
        codes, scale, zero_point = format.quantize_input(real, scheme.group_size, per_tensor)
    else:
        assert operands.input_scale is not None
        scale, zero_point = operands.input_scale.view(1, 1), operands.input_zero_point
        zero_point = None if zero_point is None else zero_point.view(1, 1)
        codes = format.encode(real, scale, zero_point)
    return codes, scale.masked_fill(spoiled, torch.nan), zero_point


def fake_quantize_input(input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
    """The float32 values that the quantized and rotated input stands for; unquantized when the scheme has none."""
    if spec.scheme.input is None:
        return rotate_input(input, spec)
    codes, scale, zero_point = quantize_input(input, operands, spec)
    group_size = spec.scheme.input.group_size
    if group_size is None:
        return even_format(spec.scheme.input).decode(codes, scale, zero_point)
    grouped = even_format(spec.scheme.input).decode(codes.unflatten(-1, (-1, group_size)), scale[..., None])
    return grouped.flatten(-2)
