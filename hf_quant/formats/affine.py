"""Integers on an even grid: ``real = (code - zero_point) * scale`` (Jacob et al., arXiv:1712.05877, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats.base import Grid, Matrix, Tensors
from hf_quant.formats.coded import CodedFormat
from hf_quant.formats.packing import unpack
from hf_quant.formats.scales import TINY, as_stored, capped


@dataclass(frozen=True)
class AffineFormat(CodedFormat):
    """Signed integer codes of `bits` bits on an even grid.

    Symmetric formats have zero point 0. From 8 bits up they leave the lowest code out, so that ``-absmax`` and
    ``absmax`` are both exact; below, where one code of four to sixteen matters, all codes are used, and scales of
    weights may be negative (`weight_grid`). A level is a code less the zero point.

    Args:
        bits: Width of a code.
        symmetric: Whether zero points are 0.
        scale_dtype: Dtype that scales are stored in, and rounded to.
    """

    @property
    def quant_min(self) -> int:
        """Lowest code."""
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric and self.bits >= 8 else 0)

    @property
    def quant_max(self) -> int:
        """Highest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def highest(self) -> float:  # type: ignore[override]
        """Highest code, less the lowest one where there are zero points."""
        return self.quant_max if self.symmetric else self.quant_max - self.quant_min

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """Lowest and highest position that is not clipped, half a step beyond the outermost codes."""
        return self.quant_min - 0.5, self.quant_max + 0.5

    def scale_and_zero_point(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """Grid for inputs in ``[low, high]``; `weight_grid` is that of weights.

        Args:
            low: Smallest values, float32, any shape.
            high: Largest values, of the shape of `low`.

        Returns:
            float32 scale that `scale_dtype` holds exactly, at least the smallest normal float32 and small enough that
            every code decodes to a finite number, and the zero point (None when symmetric). The grid always holds
            zero, so the range is widened to include it. Where a bound is NaN or infinite, so is the scale or what it
            decodes to.
        """
        if self.symmetric:
            scale = as_stored(self._symmetric_scale(torch.maximum(high.abs(), low.abs())), self.scale_dtype)
            return capped(scale, -self.quant_min, self.scale_dtype), None
        scale, zero_point = self._asymmetric_grid(low, high)
        wide = zero_point.to(torch.float32)
        return capped(scale, torch.maximum(self.quant_max - wide, wide - self.quant_min), self.scale_dtype), zero_point

    @property
    def has_signed_scales(self) -> bool:  # type: ignore[override]
        """Whether scales of weights may be negative."""
        return self.symmetric and self.quant_min < -self.quant_max

    def weight_grid(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """Grid for weights in ``[low, high]``: that of `scale_and_zero_point`, unless scales may be negative.

        There the number farthest from zero gets the lowest code, which reaches one step farther than the highest, and
        the scale gets the sign that this takes (as in the blocks of llama.cpp's Q4_0). Steps of 4 bits are 6 % shorter
        than those that treat both sides alike; what lies on the other side beyond the highest code is clipped.
        """
        if not self.has_signed_scales:
            return self.scale_and_zero_point(low, high)
        largest = torch.maximum(high.abs(), low.abs())
        size = as_stored((largest / -self.quant_min).clamp_(min=TINY), self.scale_dtype)
        size = capped(size, -self.quant_min, self.scale_dtype)
        return torch.where(high > -low, -size, size), None

    def position(self, steps: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """The code of ``number / scale`` before it is clamped, ties to even, in place."""
        steps.round_()
        if zero_point is not None:
            # Cast first: an operation on two dtypes takes a slow path.
            steps += zero_point.to(steps.dtype)
        return steps

    def snap(self, position: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Nearest level of a position, the clamped code less the zero point, in place."""
        position.clamp_(self.quant_min, self.quant_max)
        if zero_point is not None:
            position -= zero_point.to(position.dtype)
        return position

    def codes_of(self, levels: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Integer codes of levels: the zero point is added again."""
        return (levels if zero_point is None else levels + zero_point.to(levels.dtype)).to(self.dtype)

    def decode(self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """float32 values of `codes`; `scale` and `zero_point` broadcast against them."""
        real = codes.to(torch.float32)
        if zero_point is not None:
            real -= zero_point.to(torch.float32)
        return real.mul_(scale)

    def quantize_input(
        self, real: torch.Tensor, group_size: int | None = None, per_tensor: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Dynamic quantization of activations ``[..., features]``, per token unless told otherwise.

        Args:
            real: Activations, floats ``[..., features]``.
            group_size: Features of a token that share a scale; None for all of them.
            per_tensor: Whether all activations share one scale.

        Returns:
            Codes of the shape of `real`; float32 scale ``[..., 1]``, ``[..., groups]`` or ``[1, ..., 1]``; zero point
            of that shape, or None.
        """
        real = real.to(torch.float32)
        if group_size is not None:
            codes, scale, zero_point = self.quantize_input(real.unflatten(-1, (-1, group_size)))
            return codes.flatten(-2), scale.squeeze(-1), None if zero_point is None else zero_point.squeeze(-1)
        shape = [1] * real.ndim if per_tensor else [*real.shape[:-1], 1]
        low, high = torch.aminmax(real.flatten() if per_tensor else real, dim=-1, keepdim=True)
        low, high = low.view(shape), high.view(shape)
        if self.symmetric:
            scale, zero_point = self._symmetric_scale(torch.maximum(high.abs(), low.abs())), None
        else:
            scale, zero_point = self._asymmetric_grid(low, high)
        return self.encode(real, scale, zero_point), scale, zero_point

    def _symmetric_scale(self, largest: torch.Tensor) -> torch.Tensor:
        return (largest / ((self.quant_max - self.quant_min) / 2)).clamp_(min=TINY)

    def _asymmetric_grid(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = self.quant_max - self.quant_min
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = as_stored((high / levels - low / levels).clamp_(min=TINY), self.scale_dtype)
        zero_point = (self.quant_min - low / scale).round_().clamp_(self.quant_min, self.quant_max)
        return scale, zero_point.to(self.dtype)

    def check(self, tensors: Tensors, matrix: Matrix, name: str) -> None:
        """Raise CheckpointError for what no quantizer writes, the lowest code included where it is left out."""
        super().check(tensors, matrix, name)
        if self.quant_min > -(2 ** (self.bits - 1)):
            found = unpack(tensors["codes"], self.bits, matrix.width)
            if found.numel() and int(found.min()) < self.quant_min:
                raise CheckpointError(
                    f"{name} holds a code below {self.quant_min}, which symmetric {self.bits}-bit "
                    "quantization never writes: save the checkpoint again"
                )
