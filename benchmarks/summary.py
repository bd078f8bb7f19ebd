"""What the cells of the kernel benchmark are held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.case import Cell
from benchmarks.linears import SCHEMES
from benchmarks.shapes import sizes

W8A8 = ("w8a8", "w8a8-unrotated", "w8a8-static")


@dataclass(frozen=True)
class Target:
    """A share of the limit that linears of one class should reach.

    Args:
        name: Of the class, for people.
        ops: That belong to it.
        rows: From how many tokens to how many.
        size: Least width and least number of channels.
        share: Of the limit.
    """

    name: str
    ops: tuple[str, ...]
    rows: tuple[int, int]
    size: int
    share: float

    def holds(self, cell: Cell) -> bool:
        """Whether `cell` belongs to the class."""
        if cell.op not in self.ops or not self.rows[0] <= cell.rows <= self.rows[1]:
            return False
        return min(sizes(cell.shape)) >= self.size


TARGETS = (
    Target("W8A8, 1 token, from 2048 x 2048", W8A8, (1, 1), 2048, 0.85),
    Target("W4A8 g128, 1 token, from 2048 x 2048", ("w4a8-g128",), (1, 1), 2048, 0.85),
    Target("W8A16, 1 token, from 2048 x 2048", ("w8a16",), (1, 1), 2048, 0.85),
    Target("W4A16 g128, 1 token, from 2048 x 2048", ("w4a16-g128",), (1, 1), 2048, 0.85),
    Target("W8A8, from 128 tokens, from 768 x 768", W8A8, (128, 1 << 30), 768, 0.75),
    Target("W4A8 g128, from 128 tokens, from 768 x 768", ("w4a8-g128",), (128, 1 << 30), 768, 0.60),
)

MOST_FOR_EIGHT = 1.5
"""Eight tokens should take at most so many times as long as one: the weight is read once."""
SIZE_FOR_EIGHT = 768


def summary_lines(cells: Sequence[Cell], isa: str) -> list[str]:
    """The summary, for people; only cells of the instruction set `isa` are held to anything."""
    held = [cell for cell in cells if cell.isa == isa]
    lower = [cell for cell in cells if cell.isa != isa]
    lines = [*_slower_than_float(held, isa), *_against_targets(held), *_eight_against_one(held)]
    if lower:
        slower = sum(cell.ratio is not None and cell.ratio < 1 for cell in lower)
        lines.append(f"lower instruction sets: {slower} of {len(lower)} cells slower than float32, which uses the best")
    return lines


def _slower_than_float(cells: Sequence[Cell], isa: str) -> Iterator[str]:
    compared = [(cell.ratio, cell) for cell in cells if cell.ratio is not None]
    slower = sorted((ratio, _name(cell)) for ratio, cell in compared if ratio < 1)
    yield f"{_verdict(not slower)}slower than float32 on {isa}: {len(slower)} of {len(compared)} cells"
    yield from (f"    x {ratio:.2f}  {name}" for ratio, name in slower)


def _against_targets(cells: Sequence[Cell]) -> Iterator[str]:
    for target in TARGETS:
        shares = [(cell.of_limit, _name(cell)) for cell in cells if target.holds(cell) and cell.of_limit is not None]
        if shares:
            share, name = min(shares)
            yield (
                f"{_verdict(share >= target.share)}{target.name}: at least {share:.0%} of the limit "
                f"(target {target.share:.0%}), {name}"
            )


def _eight_against_one(cells: Sequence[Cell]) -> Iterator[str]:
    times = {(cell.op, cell.shape, cell.rows): cell.seconds for cell in cells}
    for op in SCHEMES:
        ratios = [
            (times[op, shape, 8] / seconds, shape)
            for (name, shape, rows), seconds in times.items()
            if name == op and rows == 1 and (op, shape, 8) in times and min(sizes(shape)) >= SIZE_FOR_EIGHT
        ]
        if ratios:
            ratio, shape = max(ratios)
            yield (
                f"{_verdict(ratio <= MOST_FOR_EIGHT)}{op}, 8 tokens against 1, from {SIZE_FOR_EIGHT} x "
                f"{SIZE_FOR_EIGHT}: at most {ratio:.2f} times as long (target {MOST_FOR_EIGHT}), {shape}"
            )


def _verdict(holds: bool) -> str:
    return "ok    " if holds else "MISSED "


def _name(cell: Cell) -> str:
    return f"{cell.op} {cell.shape}" + (f", {cell.rows} rows" if cell.rows else "")
