"""Round to nearest on the range between smallest and largest weight."""

from __future__ import annotations

import torch

from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from hf_quant.formats import affine_format, scale_dtype
from hf_quant.formats.packing import pack, words_per_row
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.native.weights import can_quantize, quantize_rows

_BLOCK_NUMBERS = 1 << 19
"""Weights handled at a time: temporaries stay in cache, and small beside the tensor itself."""

_NOT_FINITE = "{} holds NaN or Inf: repair the checkpoint, or keep the module float with modules_to_not_convert"


class RoundToNearest:
    """Scales from the extremes of each channel or group, codes by rounding."""

    needs = None

    def solve(self, weight: torch.Tensor, scheme: TensorScheme, name: str) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats of any float dtype; `name` is for error messages.

        Raises:
            WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
        """
        check_shape(weight, name)
        rows, width = weight.shape
        format = affine_format(scheme)
        groups = width // scheme.group_size if scheme.group_size else 1
        whole = _range_of_all(weight, scheme, name) if scheme.granularity == "tensor" else None
        shape = (1, 1) if whole is not None else (rows, groups)
        device = weight.device
        codes = torch.empty(rows, words_per_row(width, scheme.bits), dtype=torch.int32, device=device)
        scale = torch.empty(shape, dtype=scale_dtype(scheme), device=device)
        zero_point = None if scheme.symmetric else torch.empty(shape, dtype=format.dtype, device=device)
        if can_quantize(weight, scheme):
            if not quantize_rows(weight, scheme, codes, scale, zero_point):
                raise WeightError(_NOT_FINITE.format(name))
            return QuantizedWeight(codes, scale, zero_point)
        if whole is not None:
            scale.copy_(whole[0])
            if zero_point is not None and whole[1] is not None:
                zero_point.copy_(whole[1])
        for part in _blocks(rows, width):
            block = rows_of(weight[part], scheme).unflatten(-1, (groups, -1))
            if whole is None:
                scales, zeros = format.scale_and_zero_point(*_checked_range(block, -1, name))
                scale[part] = scales
                if zero_point is not None and zeros is not None:
                    zero_point[part] = zeros
            else:
                scales, zeros = scale, zero_point
            encoded = format.encode(block, scales[..., None], None if zeros is None else zeros[..., None])
            codes[part] = pack(encoded.flatten(-2), scheme.bits)
        return QuantizedWeight(codes, scale, zero_point)


def check_shape(weight: torch.Tensor, name: str) -> None:
    """Raise WeightError unless `weight` is a float matrix with elements."""
    if weight.ndim != 2 or weight.numel() == 0:
        raise WeightError(
            f"{name} has shape {tuple(weight.shape)}; only matrices with elements can be quantized: "
            "add the module to modules_to_not_convert"
        )
    if not weight.is_floating_point():
        raise WeightError(f"{name} holds {weight.dtype}, not floats: is the checkpoint quantized already?")


def _checked_range(block: torch.Tensor, dim: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = torch.aminmax(block, dim=dim)
    # aminmax lets NaN through, and an infinity is an extreme: no pass over the weights of its own is needed.
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise WeightError(_NOT_FINITE.format(name))
    return low, high


def _range_of_all(weight: torch.Tensor, scheme: TensorScheme, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    parts = _blocks(*weight.shape)
    # Made beforehand: small tensors kept between the blocks would keep the allocator from using their memory again.
    extremes = torch.empty(2, len(parts), dtype=torch.float32, device=weight.device)
    for index, part in enumerate(parts):
        low, high = _checked_range(rows_of(weight[part], scheme).flatten(), 0, name)
        extremes[0, index], extremes[1, index] = low, high
    return affine_format(scheme).scale_and_zero_point(extremes[0].amin(), extremes[1].amax())


def rows_of(weight: torch.Tensor, scheme: TensorScheme) -> torch.Tensor:
    """Rows as they are rounded: float32, rotated where the scheme says so."""
    rows = weight.to(torch.float32)
    return rows if scheme.rotation is None else rotate(rows, scheme.rotation)


def _blocks(rows: int, width: int) -> list[slice]:
    step = max(1, _BLOCK_NUMBERS // width)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
