"""What weights and inputs are worth after rounding to nearest, as float32."""

from __future__ import annotations

from torch import Tensor

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import even_format
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import decode_rows


def rounded_weight(weight: Tensor, scheme: TensorScheme, name: str) -> Tensor:
    """``[rows, width]`` floats as they are after quantization by round to nearest; `name` is for error messages.

    Raises:
        WeightError: The weight holds NaN or Inf.
    """
    solved = RoundToNearest().solve(weight, scheme, name)
    rows, width = weight.shape
    spec = LinearSpec(Scheme(scheme), width, rows)
    real = decode_rows(LinearOperands(solved), spec, slice(None))
    return real if scheme.rotation is None else rotate(real, scheme.rotation)


def rounded_input(tokens: Tensor, scheme: Scheme, max_abs: Tensor) -> Tensor:
    """Inputs ``[tokens, width]`` as a linear of `scheme` sees them; static scales come from `max_abs`, ``[width]``."""
    if scheme.input is None:
        return tokens
    size = scheme.weight.rotation
    real = tokens if size is None else rotate(tokens, size)
    format = even_format(scheme.input)
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
