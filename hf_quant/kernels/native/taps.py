"""Weights of convolutions in groups as the native kernel takes them: bytes in words of four, row by row of a filter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from hf_quant.formats import even_format
from hf_quant.formats.packing import unpack
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native.library import load
from hf_quant.kernels.weights import weight_zero_points

MOST_TAPS = 2**16
"""Taps of a filter, padding included, whose products with codes surely fit in 32 bits."""


class Taps(NamedTuple):
    """Operands of ``native_grouped_convolution``.

    Args:
        taps: int8 ``[out, words * 4]``: of each channel of the group, row by row, each padded with zeros.
        sums: Of the taps of each filter, int32 ``[out]``.
        scales: float32 ``[out]``.
        grid: Static grid of inputs, float32: scale, zero point and lowest code; empty for dynamic ones.
        symmetric: Whether dynamic grids are.
    """

    taps: torch.Tensor
    sums: torch.Tensor
    scales: torch.Tensor
    grid: torch.Tensor
    symmetric: bool


def taps_of(operands: LinearOperands, spec: LinearSpec, kernel_size: tuple[int, ...]) -> Taps | None:
    """The operands of the native kernel; None where it cannot compute the scheme, or there is no library.

    Args:
        operands: Neutral codes, in memory, and the grid of static inputs.
        spec: Of filters ``[out, positions * channels]``, channels innermost.
        kernel_size: Size of a filter.
    """
    weight, input = spec.scheme.weight, spec.scheme.input
    if load() is None or input is None or input.bits != 8 or spec.groups != 1 or weight.rotation is not None:
        return None
    if not weight.facts.is_even or weight.bits > 8 or (weight.bits == 8 and not weight.symmetric):
        return None
    if input.dynamic and input.granularity != "token":
        return None
    codes = unpack(operands.weight["codes"], weight.bits, spec.in_features)
    zero_point = weight_zero_points(operands, spec)
    if zero_point is not None:
        codes = codes - zero_point.to(codes.dtype)
    filters = codes.to(torch.int8).unflatten(1, (*kernel_size, -1)).movedim(-1, 1)
    taps = functional.pad(filters, (0, -kernel_size[-1] % 4)).flatten(1).contiguous()
    if taps.shape[1] > MOST_TAPS:
        return None
    grid = torch.empty(0, dtype=torch.float32)
    if not input.dynamic:
        assert operands.input_scale is not None
        zero = 0.0 if operands.input_zero_point is None else float(operands.input_zero_point)
        grid = torch.tensor([float(operands.input_scale), zero, float(even_format(input).quant_min)])
    scales = operands.weight["scale"].float().reshape(-1).expand(spec.out_features).contiguous()
    return Taps(taps, taps.sum(1, dtype=torch.int32), scales, grid, input.symmetric)
