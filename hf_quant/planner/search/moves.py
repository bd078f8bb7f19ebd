"""Steps from one assignment to the next: one unit a level up or down, within the limits to the byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from hf_quant.planner.limits import Limits
from hf_quant.planner.problem import Assignment, Problem, Totals, Unit

Order = Callable[[], Iterable[int]]
"""Function that gives the indices of units in the order to try them; called before each step."""


class Ladder:
    """The options of each unit as levels, cheapest first, without those that another option beats in everything.

    Args:
        problem: The problem whose units have levels.
        limits: Limits that decide what counts as cost: bytes, or milliseconds if only these are limited.
    """

    def __init__(self, problem: Problem, limits: Limits):
        self.timed = limits.milliseconds is not None
        self.by_time = self.timed and limits.bytes is None
        self.units = problem.units
        self.rungs = [self._rungs(unit) for unit in problem.units]

    def cost(self, unit: int, index: int) -> float:
        """Cost of a unit's option, in bytes or milliseconds."""
        option = self.units[unit].options[index]
        return option.milliseconds or 0.0 if self.by_time else option.bytes

    def up(self, unit: int, index: int) -> int | None:
        """The next level above an option, if any."""
        return next((rung for rung in self.rungs[unit] if self.cost(unit, rung) > self.cost(unit, index)), None)

    def down(self, unit: int, index: int) -> int | None:
        """The next level below an option, if any."""
        below = [rung for rung in self.rungs[unit] if self.cost(unit, rung) < self.cost(unit, index)]
        return below[-1] if below else None

    def _rungs(self, unit: Unit) -> tuple[int, ...]:
        def costs(index: int) -> tuple[float, ...]:
            option = unit.options[index]
            time = option.milliseconds or 0.0
            return (time, option.loss) if self.by_time else (option.bytes, option.loss, time if self.timed else 0.0)

        kept: list[int] = []
        for index in sorted(range(len(unit.options)), key=costs):
            if not any(all(a <= b for a, b in zip(costs(other), costs(index), strict=True)) for other in kept):
                kept.append(index)
        return tuple(kept)


class Walk:
    """An assignment that is changed unit by unit while its totals stay exact.

    Args:
        problem: The problem that the assignment is for.
        limits: Limits to keep.
        assignment: Assignment to begin with.
    """

    def __init__(self, problem: Problem, limits: Limits, assignment: Assignment):
        self.units, self.limits = problem.units, limits
        self.indices = list(assignment)
        self.bytes = problem.totals(assignment).bytes
        # The last one is what every choice takes.
        self._times = [option.milliseconds or 0.0 for option in problem.chosen(assignment)]
        self._times.append(problem.fixed_milliseconds)

    @property
    def assignment(self) -> Assignment:
        """The assignment as it is now."""
        return tuple(self.indices)

    def take(self, unit: int, index: int) -> None:
        """Give a unit another option."""
        options = self.units[unit].options
        self.bytes += options[index].bytes - options[self.indices[unit]].bytes
        self._times[unit] = options[index].milliseconds or 0.0
        self.indices[unit] = index

    def after(self, unit: int, index: int) -> Totals:
        """Bytes and milliseconds of the model if a unit had another option; the loss is not computed, and 0."""
        options = self.units[unit].options
        time = 0.0
        if self.limits.milliseconds is not None:
            kept, self._times[unit] = self._times[unit], options[index].milliseconds or 0.0
            time = math.fsum(self._times)
            self._times[unit] = kept
        return Totals(self.bytes + options[index].bytes - options[self.indices[unit]].bytes, 0.0, time)

    def excess(self) -> float:
        """How far the assignment exceeds the limits, as a sum of shares of each limit; 0 within them."""
        return self.limits.excess(self.after(0, self.indices[0]))

    def down(self, ladder: Ladder, base: Assignment, order: Order) -> None:
        """Lower units, the first in order that helps, until the limits are kept.

        Args:
            ladder: Levels of the same problem and limits.
            base: Assignment within the limits, taken unit by unit if single levels do not get there, as may be when two
                limits pull in different directions.
            order: Gives the order in which units are tried.
        """
        while (excess := self.excess()) > 0:
            for unit in order():
                lower = ladder.down(unit, self.indices[unit])
                if lower is not None and self.limits.excess(self.after(unit, lower)) < excess:
                    self.take(unit, lower)
                    break
            else:
                break
        for unit in order():
            if self.excess() == 0:
                return
            self.take(unit, base[unit])

    def up(self, ladder: Ladder, order: Order) -> None:
        """Raise units by a level, the first in order that fits, until none does."""
        fits = True
        while fits:
            fits = False
            for unit in order():
                higher = ladder.up(unit, self.indices[unit])
                if higher is not None and self.limits.allow(self.after(unit, higher)):
                    self.take(unit, higher)
                    fits = True
                    break


def within(limits: Limits, size: int) -> Limits:
    """Limits with at most `size` bytes, all else as it is."""
    return replace(limits, bytes=size if limits.bytes is None else min(limits.bytes, size))
