"""Number formats: pure functions from floats to codes and back."""

from __future__ import annotations

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats.affine import AffineFormat
from hf_quant.formats.floating import FloatFormat

_FLOAT_DTYPES = {("float", 32): torch.float32, ("float", 16): torch.float16, ("bfloat", 16): torch.bfloat16}


def affine_format(scheme: TensorScheme) -> AffineFormat:
    """The integer format that `scheme` names."""
    return AffineFormat(scheme.bits, scheme.symmetric, scale_dtype(scheme))


def scale_dtype(scheme: TensorScheme) -> torch.dtype:
    """What scales are stored in: those of a weight in groups are many, and bfloat16 keeps them small."""
    is_small = scheme.granularity == "group" and scheme.bits <= 8 and not scheme.dynamic
    return torch.bfloat16 if is_small else torch.float32


def float_format(scheme: TensorScheme) -> FloatFormat:
    """The float format that `scheme` names."""
    return FloatFormat(_FLOAT_DTYPES[scheme.format, scheme.bits])
