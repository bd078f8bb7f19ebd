"""Integers on an even grid: ``real = (code - zero_point) * scale`` (Jacob et al., arXiv:1712.05877, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.formats.packing import code_dtype

_TINY = torch.finfo(torch.float32).tiny
_HUGE = torch.finfo(torch.float32).max * (1 - 2**-23)
"""Largest float32 but one: dividing it by a number of steps and multiplying back never rounds up to infinity."""


@dataclass(frozen=True)
class AffineFormat:
    """Signed codes of `bits` bits.

    Symmetric formats have zero point 0. From 8 bits up they leave the lowest code out, so that ``-absmax`` and
    ``absmax`` are both exact; below, where one code of four to sixteen matters, all codes are used.
    """

    bits: int
    symmetric: bool = True

    @property
    def quant_min(self) -> int:
        """Lowest code."""
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric and self.bits >= 8 else 0)

    @property
    def quant_max(self) -> int:
        """Highest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of unpacked codes and of zero points."""
        return code_dtype(self.bits)

    def scale_and_zero_point(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Grid for values in ``[low, high]``.

        Args:
            low: Smallest values, float32, any shape.
            high: Largest values, of the shape of `low`.

        Returns:
            float32 scale, at least the smallest normal float32 and small enough that every code decodes to a finite
            number, and the zero point (None when symmetric). The grid always holds zero, so the range is widened to
            include it. Where a bound is NaN or infinite, so is the scale or what it decodes to.
        """
        if self.symmetric:
            return _capped(self._symmetric_scale(torch.maximum(high.abs(), low.abs())), -self.quant_min), None
        scale, zero_point = self._asymmetric_grid(low, high)
        wide = zero_point.to(torch.float32)
        return _capped(scale, torch.maximum(self.quant_max - wide, wide - self.quant_min)), zero_point

    def encode(self, real: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """Nearest codes (ties to even); `scale` and `zero_point` broadcast against `real`, which is float32."""
        codes = (real / scale).round_()
        if zero_point is not None:
            # Cast first: an operation on two dtypes takes a slow path.
            codes += zero_point.to(torch.float32)
        return codes.clamp_(self.quant_min, self.quant_max).to(self.dtype)

    def decode(self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """float32 values of `codes`; `scale` and `zero_point` broadcast against them."""
        real = codes.to(torch.float32)
        if zero_point is not None:
            real -= zero_point.to(torch.float32)
        return real.mul_(scale)

    def quantize_input(
        self, real: torch.Tensor, per_token: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Dynamic quantization of activations ``[..., features]``.

        Returns:
            Codes of the shape of `real`; float32 scale ``[..., 1]`` (per token) or ``[1, ..., 1]``; zero point.
        """
        real = real.to(torch.float32)
        shape = [*real.shape[:-1], 1] if per_token else [1] * real.ndim
        low, high = torch.aminmax(real if per_token else real.flatten(), dim=-1, keepdim=True)
        low, high = low.view(shape), high.view(shape)
        if self.symmetric:
            scale, zero_point = self._symmetric_scale(torch.maximum(high.abs(), low.abs())), None
        else:
            scale, zero_point = self._asymmetric_grid(low, high)
        return self.encode(real, scale, zero_point), scale, zero_point

    def _symmetric_scale(self, largest: torch.Tensor) -> torch.Tensor:
        return (largest / ((self.quant_max - self.quant_min) / 2)).clamp_(min=_TINY)

    def _asymmetric_grid(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = self.quant_max - self.quant_min
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high / levels - low / levels).clamp_(min=_TINY)
        zero_point = (self.quant_min - low / scale).round_().clamp_(self.quant_min, self.quant_max)
        return scale, zero_point.to(self.dtype)


def _capped(scale: torch.Tensor, steps: torch.Tensor | int) -> torch.Tensor:
    # An infinite scale stays: it comes from infinite values, which must not turn finite.
    return torch.where(scale.isinf(), scale, scale.clamp(max=_HUGE / steps))
