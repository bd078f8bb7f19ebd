"""Scales as they are stored: rounded to their dtype, never zero, and small enough for every level."""

from __future__ import annotations

import torch

TINY = torch.finfo(torch.float32).tiny
_HUGE = torch.finfo(torch.float32).max * (1 - 2**-23)
"""Largest float32 but one: dividing it by a number of steps and multiplying back never rounds up to infinity."""


def least(dtype: torch.dtype) -> float:
    """Smallest scale of a dtype: float16, which does not reach as far down as the others, goes to its last bit."""
    return 2.0**-24 if dtype is torch.float16 else TINY


def as_stored(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 scales as `dtype` holds them, in float32; infinite beyond its range.

    A scale that float16 would round to zero becomes `least`.
    """
    rounded = scale.to(dtype).to(torch.float32)
    if dtype is not torch.float16:
        return rounded
    return torch.where(rounded == 0, torch.full_like(scale, least(dtype)).copysign(scale), rounded)


def capped(scale: torch.Tensor, steps: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Scales that `steps` can be multiplied with and stay finite. Infinite ones stay, as what they come from did."""
    cap = _HUGE / torch.as_tensor(steps, device=scale.device).expand(scale.shape)
    if dtype is torch.bfloat16:
        # Rounded down, so that it stays a cap: a bfloat16 is the upper half of a float32.
        cap = (cap.view(torch.int32) & -0x10000).view(torch.float32)
    return torch.where(scale.isinf(), scale, torch.minimum(scale, cap))
