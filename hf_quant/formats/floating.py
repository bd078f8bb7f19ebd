"""Floats stored as they are, in 16 or 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FloatFormat:
    """A float dtype as a storage format; encoding is rounding to it."""

    dtype: torch.dtype

    def encode(self, real: torch.Tensor) -> torch.Tensor:
        """`real` rounded to the format (ties to even)."""
        return real.to(self.dtype)
