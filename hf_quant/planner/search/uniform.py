"""Baseline: one width for the whole model, as people choose who do not search."""

from __future__ import annotations

from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.moves import Ladder, Walk


def uniform(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 1,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Uniform plan: one number of bits for all units, as many as the budget allows; what is left raises the first.

    A unit that has no option of those bits takes its nearest below, or its smallest. What is left of the budget raises
    units by a level from the front of the model on, so that comparisons are at the same bytes. With a target for
    the loss it is the fewest bits that are predicted to meet it. `seed` and `start` change nothing.
    """
    limits = limits_of(problem, budget)
    ladder = Ladder(problem, limits)
    levels = sorted(
        {unit.bits(index) for unit, rungs in zip(problem.units, ladder.rungs, strict=True) for index in rungs}
    )
    found = feasible(problem, limits)
    for level in levels:
        assignment = tuple(_at_most(problem, ladder, unit, level) for unit in range(len(problem.units)))
        totals = problem.totals(assignment)
        if limits.allow(totals):
            found = assignment
            if limits.loss is not None and totals.loss <= limits.loss:
                break
    if limits.loss is None:
        walk = Walk(problem, limits, found)
        walk.up(ladder, lambda: range(len(problem.units)))
        found = walk.assignment
    with Evaluator(problem, limits, evaluate, evaluations, "uniform", progress) as evaluator:
        evaluator(found)
        return evaluator.best()


def _at_most(problem: Problem, ladder: Ladder, unit: int, level: float) -> int:
    bits = problem.units[unit].bits
    rungs = sorted(ladder.rungs[unit], key=bits)
    return max((index for index in rungs if bits(index) <= level), key=bits, default=rungs[0])
