"""What weights and inputs are worth after rounding to nearest, as float32."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import affine_format
from hf_quant.formats.packing import unpack
from hf_quant.formats.rotation import rotate


def rounded(weight: Tensor, scheme: TensorScheme, name: str) -> Tensor:
    """``[rows, width]`` floats as they are after quantization by round to nearest; `name` is for error messages.

    Raises:
        WeightError: The weight holds NaN or Inf.
    """
    solved = RoundToNearest().solve(weight, scheme, name)
    rows, width = weight.shape
    groups = solved.scale.shape[1]
    codes = unpack(solved.codes, scheme.bits, width).view(rows, groups, -1)
    zero_point = None if solved.zero_point is None else solved.zero_point[..., None]
    real = affine_format(scheme).decode(codes, solved.scale.to(torch.float32)[..., None], zero_point).flatten(-2)
    return real if scheme.rotation is None else rotate(real, scheme.rotation)


def rounded_input(tokens: Tensor, scheme: Scheme, max_abs: Tensor) -> Tensor:
    """Inputs ``[tokens, width]`` as a linear of `scheme` sees them; static scales come from `max_abs`, ``[width]``."""
    if scheme.input is None:
        return tokens
    size = scheme.weight.rotation
    real = tokens if size is None else rotate(tokens, size)
    format = affine_format(scheme.input)
    if scheme.input.dynamic:
        groups = scheme.input.group_size
        parts = real if groups is None else real.unflatten(-1, (-1, groups))
        real = format.decode(*format.quantize_input(parts, per_tensor=scheme.input.granularity == "tensor"))
        real = real if groups is None else real.flatten(-2)
    else:
        # Rotation spreads the peak of one input over its block, and peaks of several inputs rarely meet.
        peaks = max_abs if size is None else max_abs.unflatten(-1, (-1, size)).square().mean(-1).sqrt()
        scale, zero_point = format.scale_and_zero_point(-peaks.amax(), peaks.amax())
        real = format.decode(format.encode(real, scale, zero_point), scale, zero_point)
    return real if size is None else rotate(real, size)
