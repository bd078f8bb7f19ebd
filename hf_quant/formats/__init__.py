"""Number formats: pure functions from floats to codes and back."""

from __future__ import annotations

from typing import Any

from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.formats.base import Format, Matrix, TensorFacts
from hf_quant.formats.coded import scale_dtype
from hf_quant.formats.floating import FloatFormat
from hf_quant.registry import Registry

__all__ = [
    "AffineFormat",
    "FloatFormat",
    "Format",
    "even_format",
    "float_format",
    "format_of",
    "scale_dtype",
    "weight_facts",
]


def format_of(scheme: TensorScheme) -> Format:
    """The format with scales that a scheme names.

    Raises:
        ConfigError: The format has no scales: floats are stored as they are.
    """
    if not scheme.has_scales:
        scaled = [name for name, facts in FORMATS.items() if facts.has_scales]
        raise ConfigError(f"format {scheme.format!r} has no scales; formats that have: {', '.join(scaled)}")
    found: Format = _named(scheme)
    return found


def even_format(scheme: TensorScheme, purpose: str = "this") -> AffineFormat:
    """The format with an even grid that a scheme names.

    Raises:
        ConfigError: The format has no even grid, though `purpose` needs one; the formats that have are named.
    """
    if not scheme.facts.is_even:
        even = [name for name, facts in FORMATS.items() if facts.is_even]
        raise ConfigError(f"{purpose} needs an even grid, of format {' or '.join(even)}: {scheme.format!r} has none")
    found: AffineFormat = _named(scheme)
    return found


def float_format(scheme: TensorScheme) -> FloatFormat:
    """The float format that `scheme` names."""
    found: FloatFormat = _named(scheme)
    return found


def weight_facts(scheme: TensorScheme, rows: int, width: int) -> TensorFacts:
    """Name, shape and dtype of the tensors that a matrix ``[rows, width]`` is stored as."""
    return format_of(scheme).tensors(Matrix(scheme, rows, width))


def _named(scheme: TensorScheme) -> Any:
    return Registry("format", {scheme.format: scheme.facts.path})[scheme.format].of(scheme)
