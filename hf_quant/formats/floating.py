"""Floats stored as they are, in 16 or 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.config.scheme import TensorScheme

_DTYPES = {("float", 32): torch.float32, ("float", 16): torch.float16, ("bfloat", 16): torch.bfloat16}


@dataclass(frozen=True)
class FloatFormat:
    """A float dtype as a storage format; encoding is rounding to it."""

    dtype: torch.dtype

    @classmethod
    def of(cls, scheme: TensorScheme) -> FloatFormat:
        """The format that `scheme` names."""
        return cls(_DTYPES[scheme.format, scheme.bits])

    def encode(self, real: torch.Tensor) -> torch.Tensor:
        """`real` rounded to the format (ties to even)."""
        return real.to(self.dtype)
