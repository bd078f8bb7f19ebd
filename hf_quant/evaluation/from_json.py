"""Reports back from JSON, which may come from anyone: every key and type is checked."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from hf_quant.errors import EvaluationError
from hf_quant.registry import unknown

T = TypeVar("T")


def from_json(kind: type[T], values: Any, where: str) -> T:
    """Make a dataclass of values read from JSON, checking every key and type.

    Args:
        kind: The dataclass; its fields are annotated with ``str int float bool None Any``, tuples of one type, dicts
            with names for keys, dataclasses, and unions with None of them.
        values: Values that `json` read.
        where: Name of the value, for error messages.

    Raises:
        EvaluationError: A key is unknown or missing, or a value has another type.
    """
    if not isinstance(values, dict):
        raise EvaluationError(f"{where} is {_shown(values)}, not an object")
    hints = typing.get_type_hints(kind)
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise EvaluationError(f"{where}: {unknown('key', key, known)}")
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise EvaluationError(f"{where} has no {name!r}: the report is not complete")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        kept = [part for part in parts if part is not type(None)]
        return None if value is None else _value(kept[0], value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise EvaluationError(f"{where} is {_shown(value)}, not a list")
        return tuple(_value(parts[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise EvaluationError(f"{where} is {_shown(value)}, not an object")
        return {str(key): _value(parts[1], entry, f"{where}.{key}") for key, entry in value.items()}
    fits = isinstance(value, int | float) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise EvaluationError(f"{where} is {_shown(value)}, not a {hint.__name__}")
    return float(value) if hint is float else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
