"""Literal tables of names; the file behind a name is imported on first use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from hf_quant.errors import UnknownName


class Registry:
    """Names to objects, written down as ``"package.module:attribute"``.

    Args:
        kind: What the names stand for, used in the error message.
        table: Name to location. Importing the table imports none of the locations.
    """

    def __init__(self, kind: str, table: dict[str, str]):
        self.kind = kind
        self.table = table

    def __getitem__(self, name: str) -> Any:
        if name not in self.table:
            raise UnknownName(unknown(self.kind, name, self.table))
        module, attribute = self.table[name].split(":")
        return getattr(import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)


def unknown(kind: str, name: object, known: object) -> str:
    """The message for a name that is not known, with the nearest one that is."""
    names = [str(entry) for entry in known]  # type: ignore[attr-defined]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"no {kind} {name!r}{hint} Known: {', '.join(names)}"
