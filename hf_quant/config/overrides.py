"""Exceptions from a preset or a scheme, by patterns of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_quant.config.plan import Candidate, fit, winning_patterns
from hf_quant.config.presets import get_preset
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError

Override = Scheme | str | None | Mapping[str, Any]
"""A scheme or its dict, a preset's name, or None to keep float."""


def checked_overrides(overrides: Mapping[str, Override] | None) -> dict[str, Scheme | str | None]:
    """Overrides by pattern, checked, with dicts read as schemes.

    Raises:
        ConfigError: `overrides` is no dict, or a value in it is no override.
    """
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"overrides takes a dict, not {overrides!r}")
    return {pattern: _checked(pattern, value) for pattern, value in overrides.items()}


def resolved_overrides(
    overrides: Mapping[str, Scheme | str | None], candidates: Mapping[str, Candidate]
) -> dict[str, Scheme | None]:
    """Schemes of the modules that patterns match, by the module's name; None keeps a module float.

    Raises:
        PlanError: A pattern matches nothing, or a group size does not divide a width.
    """
    resolved: dict[str, Scheme | None] = {}
    for name, pattern in winning_patterns(overrides, candidates).items():
        value, candidate = overrides[pattern], candidates[name]
        # A preset's name means another scheme for a linear than for an embedding, and for one width than for another.
        scheme = get_preset(value).scheme_for(candidate.kind, candidate.width) if isinstance(value, str) else value
        resolved[name] = None if scheme is None else fit(scheme, candidate, name)
    return resolved


def written_overrides(overrides: Mapping[str, Scheme | str | None]) -> dict[str, Any]:
    """Overrides as JSON-ready values, which `checked_overrides` reads back."""
    return {pattern: value.to_dict() if isinstance(value, Scheme) else value for pattern, value in overrides.items()}


def _checked(pattern: str, value: Any) -> Scheme | str | None:
    if isinstance(value, str):
        get_preset(value)
        return value
    if isinstance(value, Mapping):
        return Scheme.from_dict(value)
    if not isinstance(value, Scheme | None):
        raise ConfigError(f"overrides[{pattern!r}] takes a preset's name, a Scheme or None, not {value!r}")
    return value
