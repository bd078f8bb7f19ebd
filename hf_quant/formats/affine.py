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
    ``absmax`` are both exact; below, where one code of four to sixteen matters, all codes are used, and scales of
    weights may be negative (`weight_grid`).

    Args:
        bits: Width of a code.
        symmetric: Whether zero points are 0.
        scale_dtype: What scales are stored in, and rounded to: float32 or bfloat16.
    """

    bits: int
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float32

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
            scale = self._stored(self._symmetric_scale(torch.maximum(high.abs(), low.abs())))
            return self._capped(scale, torch.full_like(scale, -self.quant_min)), None
        scale, zero_point = self._asymmetric_grid(low, high)
        wide = zero_point.to(torch.float32)
        return self._capped(scale, torch.maximum(self.quant_max - wide, wide - self.quant_min)), zero_point

    @property
    def has_signed_scales(self) -> bool:
        """Whether scales of weights may be negative."""
        return self.symmetric and self.quant_min < -self.quant_max

    def weight_grid(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Grid for weights in ``[low, high]``; as `scale_and_zero_point`, but where scales may be negative.

        There the number farthest from zero gets the lowest code, which reaches one step farther than the highest, and
        the scale gets the sign that this takes (as in the blocks of llama.cpp's Q4_0). Steps of 4 bits are 6 % shorter
        than those that treat both sides alike; what lies on the other side beyond the highest code is clipped.
        """
        if not self.has_signed_scales:
            return self.scale_and_zero_point(low, high)
        largest = torch.maximum(high.abs(), low.abs())
        size = self._stored((largest / -self.quant_min).clamp_(min=_TINY))
        size = self._capped(size, torch.full_like(size, -self.quant_min))
        return torch.where(high > -low, -size, size), None

    def encode(self, real: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """Nearest codes (ties to even); `scale` and `zero_point` broadcast against `real`, which is float32.

        Reals are multiplied by the scale's reciprocal, which is rounded to float32, as kernels do.
        """
        codes = (real * scale.reciprocal()).round_()
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
        self, real: torch.Tensor, group_size: int | None = None, per_tensor: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Dynamic quantization of activations ``[..., features]``, per token unless told otherwise.

        Args:
            real: Floats.
            group_size: Features of a token that share a scale; None for all of them.
            per_tensor: One scale for everything.

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
        return (largest / ((self.quant_max - self.quant_min) / 2)).clamp_(min=_TINY)

    def _asymmetric_grid(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = self.quant_max - self.quant_min
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = self._stored((high / levels - low / levels).clamp_(min=_TINY))
        zero_point = (self.quant_min - low / scale).round_().clamp_(self.quant_min, self.quant_max)
        return scale, zero_point.to(self.dtype)

    def _stored(self, scale: torch.Tensor) -> torch.Tensor:
        return scale.to(self.scale_dtype).to(torch.float32)

    def _capped(self, scale: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        cap = _HUGE / steps
        if self.scale_dtype is torch.bfloat16:
            # Rounded down, so that it stays a cap: a bfloat16 is the upper half of a float32.
            cap = (cap.view(torch.int32) & -0x10000).view(torch.float32)
        # An infinite scale stays: it comes from infinite values, which must not turn finite.
        return torch.where(scale.isinf(), scale, torch.minimum(scale, cap))
