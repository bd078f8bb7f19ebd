"""Modules of a model as a grid: a column for each block, a row for each kind of module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Grid:
    """Places of a model's modules in a grid of blocks and kinds.

    Args:
        blocks: Numbers of the blocks, in order: the columns.
        kinds: Names of modules within a block, shortened as far as they differ: the rows.
        places: Name of each module in a block to its row and column, from 0.
        outside: Names of modules outside the blocks.
    """

    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    places: Mapping[str, tuple[int, int]]
    outside: tuple[str, ...]


def grid_of(modules: Iterable[str]) -> Grid:
    """The grid of a model's modules, by name; blocks are the numbered list that most of the names are in."""
    names = list(modules)
    found = {name: match.groups() for name in names if (match := _BLOCK.match(name))}
    lists = [prefix for prefix, _, _ in found.values()]
    prefix = max(set(lists), key=lambda each: (lists.count(each), each), default="")
    inside = {name: (int(number), kind) for name, (of, number, kind) in found.items() if of == prefix}
    blocks = sorted({number for number, _ in inside.values()})
    kinds = list(dict.fromkeys(kind for _, kind in inside.values()))
    places = {name: (kinds.index(kind), blocks.index(number)) for name, (number, kind) in inside.items()}
    return Grid(tuple(blocks), tuple(_shortened(kinds)), places, tuple(name for name in names if name not in inside))


def _shortened(kinds: list[str]) -> list[str]:
    """Names cut to their last parts, to as many as tell all names apart."""
    parts = [kind.split(".") for kind in kinds]
    for count in range(1, max(map(len, parts), default=1) + 1):
        short = [".".join(part[-count:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return kinds
