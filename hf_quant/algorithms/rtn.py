"""Round to nearest on the range between smallest and largest weight."""

from __future__ import annotations

import torch

from hf_quant.algorithms.base import InputStatistics, QuantizedWeight
from hf_quant.algorithms.grids import Clipping, Grid, choose, choose_one
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from hf_quant.formats import format_of
from hf_quant.formats.base import Matrix
from hf_quant.formats.packing import code_dtype
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.native.weights import can_quantize, quantize_rows

_BLOCK_NUMBERS = 1 << 19
"""Weights handled at a time: temporaries stay in cache, and small beside the tensor itself."""

NOT_FINITE = "{} holds NaN or Inf: repair the checkpoint, or keep the module float with modules_to_not_convert"


class RoundToNearest:
    """Scales from the extremes of each channel or group, codes by rounding."""

    needs: frozenset[str] = frozenset()

    def least_tokens(self, width: int) -> int:
        """None: the weight says all."""
        return 0

    def solve(
        self, weight: torch.Tensor, scheme: TensorScheme, name: str, inputs: InputStatistics | None = None
    ) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats of any float dtype; `name` is for error messages.

        Raises:
            WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
        """
        return rounded(weight, scheme, name)


def rounded(
    weight: torch.Tensor,
    scheme: TensorScheme,
    name: str,
    clipping: Clipping | None = None,
    importance: torch.Tensor | None = None,
) -> QuantizedWeight:
    """Round a weight to the nearest codes of the grids that `grids.choose` finds.

    Args:
        weight: Weight ``[rows, width]`` of any float dtype.
        scheme: Format with scales; its group size and rotation divide the width.
        name: Name of the weight, for error messages.
        clipping: Ranges to try; None takes the whole one.
        importance: Factor of each input's squared errors, float32 ``[width]``; of each rotated input where the scheme
            rotates. None: all alike.

    Raises:
        WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
    """
    check_shape(weight, name)
    rows, width = weight.shape
    format = format_of(scheme)
    matrix = Matrix(scheme, rows, width)
    groups, device = matrix.groups, weight.device
    shape, dtype = format.tensors(matrix)["codes"]
    codes = torch.empty(shape, dtype=dtype, device=device)
    scale = torch.empty(matrix.scale_shape, dtype=format.scale_dtype, device=device)
    zero_point = (
        None if scheme.symmetric else torch.empty(matrix.scale_shape, dtype=code_dtype(scheme.bits), device=device)
    )
    whole = grid_of_all(weight, scheme, name, clipping, importance) if scheme.granularity == "tensor" else None
    if importance is None and can_quantize(weight, scheme):
        trials, narrowest = (0, 1.0) if clipping is None else (clipping.trials, clipping.narrowest)
        if not quantize_rows(weight, scheme, codes, scale, zero_point, trials, narrowest):
            raise WeightError(NOT_FINITE.format(name))
        return format.stored(codes, (scale, zero_point), name)
    if whole is not None:
        scale.copy_(whole[0])
        if zero_point is not None and whole[1] is not None:
            zero_point.copy_(whole[1])
    grouped = None if importance is None else importance.view(groups, -1)
    for part in blocks_of(rows, width):
        block = rows_of(weight[part], scheme).unflatten(-1, (groups, -1))
        if whole is None:
            low, high = checked_range(block, -1, name)
            scales, zeros = choose(block, low, high, format, clipping, grouped)
            scale[part] = scales
            if zero_point is not None and zeros is not None:
                zero_point[part] = zeros
        else:
            scales, zeros = whole
        encoded = format.encode(block, scales[..., None], None if zeros is None else zeros[..., None])
        codes[part] = format.pack(encoded.flatten(-2))
    return format.stored(codes, (scale, zero_point), name)


def check_shape(weight: torch.Tensor, name: str) -> None:
    """Raise WeightError unless `weight` is a float matrix with elements."""
    if weight.ndim != 2 or weight.numel() == 0:
        raise WeightError(
            f"{name} has shape {tuple(weight.shape)}; only matrices with elements can be quantized: "
            "add the module to modules_to_not_convert"
        )
    if not weight.is_floating_point():
        raise WeightError(f"{name} holds {weight.dtype}, not floats: is the checkpoint quantized already?")


def checked_range(block: torch.Tensor, dim: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest numbers along a dimension; raises WeightError where there is NaN or Inf."""
    low, high = torch.aminmax(block, dim=dim)
    # aminmax lets NaN through, and an infinity is an extreme: no pass over the weights of its own is needed.
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise WeightError(NOT_FINITE.format(name))
    return low, high


def grid_of_all(
    weight: torch.Tensor,
    scheme: TensorScheme,
    name: str,
    clipping: Clipping | None = None,
    importance: torch.Tensor | None = None,
) -> Grid:
    """The one grid of a per-tensor weight, scale and zero point ``[1, 1]``; for the arguments see `rounded`."""
    parts = blocks_of(*weight.shape)
    # Made beforehand: small tensors kept between the blocks would keep the allocator from using their memory again.
    extremes = torch.empty(2, len(parts), dtype=torch.float32, device=weight.device)
    for index, part in enumerate(parts):
        low, high = checked_range(rows_of(weight[part], scheme).flatten(), 0, name)
        extremes[0, index], extremes[1, index] = low, high
    blocks = (rows_of(weight[part], scheme) for part in parts)
    return choose_one(blocks, extremes[0].amin(), extremes[1].amax(), format_of(scheme), clipping, importance)


def rows_of(weight: torch.Tensor, scheme: TensorScheme) -> torch.Tensor:
    """Rows of a weight as they are rounded: float32, rotated where the scheme says so."""
    rows = weight.detach().to(torch.float32)
    return rows if scheme.rotation is None else rotate(rows, scheme.rotation)


def blocks_of(rows: int, width: int) -> list[slice]:
    """Slices of rows to work on at a time, so that temporaries stay small."""
    step = max(1, _BLOCK_NUMBERS // width)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
