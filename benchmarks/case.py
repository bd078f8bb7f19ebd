"""What the kernel benchmark consists of: suites of ops, which make cases, which become cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.timing import Work


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    Args:
        op: Its name.
        shape: As in the tables of `shapes`.
        rows: Tokens; 0 where an op has none.
        scheme: Of what it multiplies with, for people.
        run: The op on the instruction set in use.
        baseline: What torch does in its place, in float32; None where nothing does.
        read: Bytes that have to come from memory.
        operations: Multiplications and additions.
        peak: What bounds `operations`: ``"dots"`` of 8-bit integers, or the ``"matmul"`` of float32. Where an op has
            neither bytes nor operations to speak of, no limit is given.
    """

    op: str
    shape: str
    rows: int
    scheme: str
    run: Work
    baseline: Work | None
    read: int = 0
    operations: int = 0
    peak: str = "matmul"


@dataclass(frozen=True)
class Suite:
    """Ops that are made alike.

    Args:
        ops: Their names.
        shapes: Shapes that each is measured at.
        cases: ``(op, shape, rows, memory)`` to cases; data that has to come from memory is rotated through copies of
            `memory` bytes altogether.
        rows: Tokens, or 0.
        most_rows: Shapes that are not measured with more rows.
    """

    ops: tuple[str, ...]
    shapes: tuple[str, ...]
    cases: Callable[[str, str, Sequence[int], int], Iterator[Case]]
    rows: tuple[int, ...]
    most_rows: dict[str, int] = field(default_factory=dict)

    def rows_of(self, shape: str, wanted: Sequence[int]) -> list[int]:
        """The rows among `wanted` that `shape` is measured with."""
        if self.rows == (0,):
            return [0]
        return [rows for rows in wanted if rows in self.rows and rows <= self.most_rows.get(shape, rows)]


@dataclass(frozen=True)
class Cell:
    """What was measured of a case.

    Args:
        read_rate: Bytes per second that the machine can read, measured in turn with the op; None where `read` is 0.
        peak_rate: Operations per second that it can do, for the `peak` of the case; None where `operations` is 0.
        baseline: Median seconds; None where there is none.
        ratio: Median over rounds of the time of the baseline to that of the op.
    """

    op: str
    scheme: str
    shape: str
    rows: int
    isa: str
    seconds: float
    read: int
    operations: int
    read_rate: float | None
    peak_rate: float | None
    baseline: float | None
    ratio: float | None

    @property
    def of_limit(self) -> float | None:
        """The least time that reading or multiplying takes, whichever is longer, over the time taken."""
        reading = self.read / self.read_rate if self.read_rate else 0.0
        multiplying = self.operations / self.peak_rate if self.peak_rate else 0.0
        return max(reading, multiplying) / self.seconds or None
