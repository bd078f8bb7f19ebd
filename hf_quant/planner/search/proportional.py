"""Baseline: fewer bits the larger a module is."""

from __future__ import annotations

from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.moves import Ladder, Order, Walk


def proportional(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 1,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Start from the highest levels and lower the unit that costs most, again and again, until the budget is kept.

    With a target for the loss, for as long as it is predicted to be met. Losses decide nothing else. What is left of
    the budget raises the smallest units. `seed` and `start` change nothing.
    """
    limits = limits_of(problem, budget)
    ladder = Ladder(problem, limits)
    walk = Walk(problem, limits, tuple(rungs[-1] for rungs in ladder.rungs))

    def costliest() -> list[int]:
        return sorted(range(len(problem.units)), key=lambda unit: -ladder.cost(unit, walk.indices[unit]))

    walk.down(ladder, feasible(problem, limits), costliest)
    if limits.loss is None:
        walk.up(ladder, lambda: reversed(costliest()))
    else:
        _down_to_target(problem, limits.loss, ladder, walk, costliest)
    with Evaluator(problem, limits, evaluate, evaluations, "proportional", progress) as evaluator:
        evaluator(walk.assignment)
        return evaluator.best()


def _down_to_target(problem: Problem, target: float, ladder: Ladder, walk: Walk, order: Order) -> None:
    while True:
        for unit in order():
            before = walk.indices[unit]
            lower = ladder.down(unit, before)
            if lower is None or not walk.limits.allow(walk.after(unit, lower)):
                continue
            walk.take(unit, lower)
            if problem.totals(walk.assignment).loss <= target:
                break
            walk.take(unit, before)
        else:
            return
