"""A search, and the measurements that have the last word on what it finds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hf_quant.planner.aim import aim
from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Problem
from hf_quant.planner.repair import Repair, repair
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.uniform import uniform

logger = logging.getLogger(__name__)

_FEW = 3
"""Fewest measurements left for one of them to go to a uniform plan."""


def confirmed(
    problem: Problem,
    budget: Budget | str | float,
    search: Callable[[Budget | str | float], Solution],
    measure: Evaluate,
    measurements: int,
    aims: bool,
    progress: bool = True,
) -> tuple[Solution, tuple[Repair, ...]]:
    """Search for a plan, measure and repair it; the solution and a log of every measurement.

    Args:
        problem: The problem that is searched.
        budget: Limits that the plan has to keep.
        search: Finds a solution for a budget.
        measure: Measures the loss of an assignment.
        measurements: Most calls of `measure`; 0 takes the solution as the search predicts it.
        aims: Whether up to half of the measurements may be spent on repeated searches, to find the predicted loss that
            meets a target for the measured one.
        progress: Show a progress bar.

    Raises:
        EvaluationError: A measured loss is NaN.
        InfeasibleBudget: Nothing keeps to the budget, or the float model does.
    """
    log: tuple[Repair, ...] = ()
    if Budget.of(budget).drop and measurements > 1 and aims:
        solution, log = aim(problem, budget, search, measure, -(-measurements // 2))
    else:
        solution = search(budget)
    if measurements <= len(log):
        return solution, log
    left = measurements - len(log)
    rival = uniform(problem, budget).assignment if left >= _FEW and Budget.of(budget).drop is None else None
    repaired = repair(problem, budget, solution, measure, left, progress, rival)
    if not repaired.met:
        logger.warning(
            "the loss that was asked for was not met within %d measurements: allow more, or lose more", measurements
        )
    return repaired.solution, log + repaired.log
