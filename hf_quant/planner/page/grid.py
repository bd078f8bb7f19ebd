"""Modules of a model as a grid: a column for each block, a row for each kind of module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.(.+)$")
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_MOST_KINDS = 64


@dataclass(frozen=True)
class Grid:
    """Places of a model's modules in a grid of blocks and kinds.

    Args:
        blocks: Numbers of the blocks, in order: the columns.
        kinds: Names of modules within a block, shortened as far as they differ: the rows. Where they are very many,
            those that differ only in numbers, such as experts, are one.
        places: Name of each module in a block to its row and column, from 0; several may have one place.
        outside: Names of modules outside the blocks.
    """

    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    places: Mapping[str, tuple[int, int]]
    outside: tuple[str, ...]

    def means(self, values: Mapping[str, float]) -> np.ndarray:
        """Mean at each place of the values of the modules there ``[kinds, blocks]``, NaN where there is none."""
        sums, counts = np.zeros((2, len(self.kinds), len(self.blocks)))
        for name, place in self.places.items():
            if name in values:
                sums[place] += values[name]
                counts[place] += 1
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def grid_of(modules: Iterable[str]) -> Grid:
    """The grid of a model's modules, by name; blocks are the numbered list that most of the names are in."""
    names = list(modules)
    found = {name: match.groups() for name in names if (match := _BLOCK.match(name))}
    lists = Counter(prefix for prefix, _, _ in found.values())
    prefix = max(lists, key=lambda each: (lists[each], each), default="")
    inside = {name: (int(number), kind) for name, (of, number, kind) in found.items() if of == prefix}
    if len({kind for _, kind in inside.values()}) > _MOST_KINDS:
        inside = {name: (number, _NUMBER.sub("*", kind)) for name, (number, kind) in inside.items()}
    blocks = sorted({number for number, _ in inside.values()})
    kinds = list(dict.fromkeys(kind for _, kind in inside.values()))
    rows, columns = ({each: place for place, each in enumerate(of)} for of in (kinds, blocks))
    places = {name: (rows[kind], columns[number]) for name, (number, kind) in inside.items()}
    return Grid(tuple(blocks), tuple(_shortened(kinds)), places, tuple(name for name in names if name not in inside))


def _shortened(kinds: list[str]) -> list[str]:
    """Names cut to their last parts, to as many as tell all names apart."""
    parts = [kind.split(".") for kind in kinds]
    for count in range(1, max(map(len, parts), default=1) + 1):
        short = [".".join(part[-count:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return kinds
