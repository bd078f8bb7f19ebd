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
"""Measurements from which on one may go to bits that are the same for all."""


def confirmed(
    problem: Problem,
    budget: Budget | str | float,
    search: Callable[[Budget | str | float], Solution],
    measure: Evaluate,
    measurements: int,
    aims: bool,
    progress: bool = True,
) -> tuple[Solution, tuple[Repair, ...]]:
    """What a search finds, as measuring it changed it, and every measurement.

    Args:
        problem: What is searched.
        budget: That has to be kept to.
        search: Gives a solution for a budget.
        measure: The loss of an assignment.
        measurements: Most calls of `measure`; 0 leaves it at what the search predicts.
        aims: Whether half of them may go into finding what predicted loss a target for the measured one takes.
        progress: Show a progress bar.

    Raises:
        EvaluationError: A measured loss is NaN.
        InfeasibleBudget: As for every search.
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
