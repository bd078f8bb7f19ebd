"""From what was predicted to what is measured: a solution is measured, and mended one change at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from hf_quant.errors import ConfigError, EvaluationError
from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution, Step
from hf_quant.planner.search.moves import Ladder, Walk

logger = logging.getLogger(__name__)

_NEAR = 1.25
"""Largest ratio of a predicted loss to the best one at which predictions cannot tell which plan loses more."""


@dataclass(frozen=True)
class Repair:
    """One measured change of a plan, and why it was tried.

    Args:
        change: The change of the plan, in words.
        reason: Why the change was tried, in words.
        predicted: Predicted loss of the whole model: the sum over the chosen options.
        measured: Measured loss of the whole model.
        bytes: Bytes of the whole model.
        kept: Whether the change was kept, so that later ones start from it.
    """

    change: str
    reason: str
    predicted: float
    measured: float
    bytes: int
    kept: bool


@dataclass(frozen=True)
class Repaired:
    """Result of measuring and repairing a solution.

    Args:
        solution: The best solution that was measured.
        log: Every measurement, in order.
        met: Whether the measured loss meets the target; True where there is no target.
    """

    solution: Solution
    log: tuple[Repair, ...]
    met: bool


def repair(
    problem: Problem,
    budget: Budget | str | float,
    solution: Solution,
    measure: Evaluate,
    measurements: int = 10,
    progress: bool = False,
    rival: Assignment | None = None,
) -> Repaired:
    """Measure a solution, then try the most promising changes for as long as there is reason to.

    Every change keeps the bytes and milliseconds of the budget. While a target for the loss is missed, the unit of most
    predicted loss per byte is raised, if need be at the cost of those that lose least by it. Once it is met, units are
    lowered where that saves most bytes for what it is predicted to lose. Without a target, what is left of the budget
    is spent, then units are raised at the cost of others. A change that made things worse is taken back and not tried
    again.

    Args:
        problem: The problem that the solution solves.
        budget: Limits that every change has to keep.
        solution: Solution to begin with, from any search; its measured loss, if any, is not measured again.
        measure: Measures how much the loss of the model rises under an assignment.
        measurements: Most calls of `measure`, that of the solution included.
        progress: Show a progress bar.
        rival: Assignment of the same bits to all units, to measure second, unless its predicted loss is more than a
            quarter above the solution's predicted and measured one. None: not tried.

    Raises:
        ConfigError: `measurements` is below 1, or the solution is beyond the budget.
        EvaluationError: A measured loss is NaN.
        InfeasibleBudget: Nothing keeps to the budget, or the float model does.
    """
    limits = limits_of(problem, budget)
    if isinstance(measurements, bool) or not isinstance(measurements, int) or measurements < 1:
        raise ConfigError(f"measurements must be an integer of at least 1, not {measurements!r}")
    if not limits.allow(problem.totals(solution.assignment)):
        raise ConfigError(f"the solution is beyond the budget ({limits}); search again with this budget")
    with tqdm(total=measurements, desc="repair", unit="measurement", disable=not progress) as bar:
        state = _State(problem, limits, measure, bar)
        if solution.measured_loss is None:
            state.try_out(_Change(solution.assignment, "nothing yet", "predictions have to be measured"))
        else:
            state.best, state.losses = solution.assignment, {solution.assignment: solution.measured_loss}
        if rival is not None and len(state.log) < measurements and state.is_near(rival):
            state.try_out(_Change(rival, "the same bits for all", "predictions do not tell which loses less"))
        while len(state.log) < measurements:
            change = next(state.changes(), None)
            if change is None:
                break
            state.try_out(change)
    totals = problem.totals(state.best)
    history = tuple(state.steps)
    repaired = replace(
        solution,
        assignment=state.best,
        predicted_loss=totals.loss,
        bytes=totals.bytes,
        milliseconds=totals.milliseconds,
        evaluations=solution.evaluations + len(history),
        history=solution.history + history,
        measured_loss=state.losses[state.best],
    )
    return Repaired(repaired, tuple(state.log), limits.loss is None or state.losses[state.best] <= limits.loss)


@dataclass(frozen=True)
class _Change:
    assignment: Assignment
    change: str
    reason: str


class _State:
    def __init__(self, problem: Problem, limits: Limits, measure: Evaluate, bar: tqdm):
        self.problem, self.limits, self.measure, self.bar = problem, limits, measure, bar
        self.ladder = Ladder(problem, limits)
        self.losses: dict[Assignment, float] = {}
        self.log: list[Repair] = []
        self.steps: list[Step] = []
        self.best: Assignment = ()

    def try_out(self, change: _Change) -> None:
        """Measure a change, and keep it if it ranks above the best so far."""
        totals = self.problem.totals(change.assignment)
        measured = float(self.measure(change.assignment))
        if math.isnan(measured):
            raise EvaluationError(f"the measured loss after {change.change!r} is NaN; leave such options out")
        self.losses[change.assignment] = measured
        kept = not self.best or self.rank(change.assignment) < self.rank(self.best)
        self.best = change.assignment if kept else self.best
        self.log.append(Repair(change.change, change.reason, totals.loss, measured, totals.bytes, kept))
        self.steps.append(Step(change.assignment, measured, totals.bytes, totals.milliseconds))
        self.bar.update()
        logger.info("%s: predicted %.4g, measured %.4g", change.change, totals.loss, measured)

    def is_near(self, rival: Assignment) -> bool:
        """Whether a rival is not measured yet and predicted to lose little more than the best, or less."""
        least = max(self.problem.totals(self.best).loss, self.losses[self.best])
        return rival not in self.losses and self.problem.totals(rival).loss <= _NEAR * least

    def rank(self, assignment: Assignment) -> tuple[float, float, float]:
        return self.limits.rank(self.problem.totals(assignment), self.losses[assignment])

    def changes(self) -> Iterator[_Change]:
        """Changes of the best assignment that are not measured yet, the most promising first."""
        target, measured = self.limits.loss, self.losses[self.best]
        found = self._savings(target) if target is not None and measured <= target else self._gains(target)
        return (change for change in found if change.assignment not in self.losses)

    def _gains(self, target: float | None) -> Iterator[_Change]:
        predicted = self.problem.totals(self.best).loss
        why = f"measured {self.losses[self.best]:.4g}, predicted {predicted:.4g}"
        why += "" if target is None else f", target {target:.4g}"
        gains = []
        for number, index in enumerate(self.best):
            higher = self.ladder.up(number, index)
            if higher is not None:
                gain = self._loss(number, index) - self._loss(number, higher)
                more = max(self.ladder.cost(number, higher) - self.ladder.cost(number, index), 1e-12)
                gains.append((-gain / more, number, higher))
        paid = []
        for _, number, higher in sorted(gains):
            walk = Walk(self.problem, self.limits, self.best)
            fits = self.limits.allow(walk.after(number, higher))
            walk.take(number, higher)
            words = self._words(number, self.best[number], higher)
            if fits:
                yield _Change(walk.assignment, words, f"most predicted loss per cost, and it fits; {why}")
                continue
            walk.down(self.ladder, self.best, lambda walk=walk, raised=number: self._least_missed(walk, raised))  # type: ignore[misc]
            if walk.assignment != self.best:
                paid.append((self.problem.totals(walk.assignment).loss, walk.assignment, words))
        for _, assignment, words in sorted(paid):
            lowered = [
                self._words(number, before, after)
                for number, (before, after) in enumerate(zip(self.best, assignment, strict=True))
                if self.ladder.cost(number, after) < self.ladder.cost(number, before)
            ]
            yield _Change(
                assignment, "; ".join([words, *lowered]), f"at the cost of what is predicted to lose least; {why}"
            )

    def _savings(self, target: float) -> Iterator[_Change]:
        loss, predicted = self.losses[self.best], self.problem.totals(self.best).loss
        scale = loss / predicted if loss > 0 and predicted > 0 else 1.0
        savings = []
        for number, index in enumerate(self.best):
            lower = self.ladder.down(number, index)
            walk = Walk(self.problem, self.limits, self.best)
            if lower is None or not self.limits.allow(after := walk.after(number, lower)):
                continue
            lost = scale * (self._loss(number, lower) - self._loss(number, index))
            saved = walk.bytes - after.bytes
            if saved > 0 and loss + lost <= target:
                walk.take(number, lower)
                savings.append((max(lost, 0.0) / saved, walk.assignment, self._words(number, index, lower)))
        for _, assignment, words in sorted(savings):
            yield _Change(assignment, words, f"measured {loss:.4g} leaves room below the target {target:.4g}")

    def _least_missed(self, walk: Walk, raised: int) -> list[int]:
        def missed(number: int) -> tuple[bool, float]:
            lower = self.ladder.down(number, walk.indices[number])
            if lower is None:
                return True, 0.0
            saved = self.ladder.cost(number, walk.indices[number]) - self.ladder.cost(number, lower)
            return number == raised, (self._loss(number, lower) - self._loss(number, walk.indices[number])) / saved

        return sorted(range(len(walk.indices)), key=missed)

    def _loss(self, number: int, index: int) -> float:
        return self.problem.units[number].options[index].loss

    def _words(self, number: int, before: int, after: int) -> str:
        unit = self.problem.units[number]
        return f"{unit.name}: {unit.options[before].name} to {unit.options[after].name}"
