"""Baseline: random assignments that spend the budget, the best of which is kept."""

from __future__ import annotations

import random

from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.moves import Ladder, Walk

_MISSES = 200
"""Number of repeated assignments in a row after which the search ends."""


def random_search(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 100,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Random search: random levels, lowered at random into the budget and, without a target, raised to fill it."""
    limits = limits_of(problem, budget)
    ladder = Ladder(problem, limits)
    base = feasible(problem, limits)
    numbers = random.Random(seed)

    def shuffled() -> list[int]:
        return numbers.sample(range(len(problem.units)), len(problem.units))

    with Evaluator(problem, limits, evaluate, evaluations, "random", progress) as evaluator:
        if start is not None:
            evaluator(start)
        misses = 0
        while evaluator.left and misses < _MISSES:
            walk = Walk(problem, limits, tuple(numbers.choice(rungs) for rungs in ladder.rungs))
            walk.down(ladder, base, shuffled)
            if limits.loss is None:
                walk.up(ladder, shuffled)
            misses = misses + 1 if evaluator.seen(walk.assignment) else 0
            evaluator(walk.assignment)
        return evaluator.best()
