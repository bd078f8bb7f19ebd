"""Towards a target that is measured: each search has predictions corrected by what the last one turned out to be.

Predicted losses of single modules do not add up, and a target may not even be in their unit: accuracy falls by some
share where the loss rises by some nats. All a search needs is that both grow together. Let a plan be predicted to lose
``p``, and measured to lose ``m`` where ``t`` is allowed: the next search is allowed ``p t / m``, and once both a plan
that meets the target and one that misses it are known, what is halfway between them (bisection of logarithms).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from hf_quant.errors import EvaluationError, InfeasibleBudget
from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.repair import Repair
from hf_quant.planner.search.base import Evaluate, Solution, Step

logger = logging.getLogger(__name__)

_FACTOR = 8.0
"""What is allowed changes by this factor at most from one search to the next."""

_CLOSE = 1.05
"""Two limits are the same, if one is at most so many times the other."""


def aim(
    problem: Problem,
    budget: Budget | str | float,
    search: Callable[[Budget], Solution],
    measure: Evaluate,
    measurements: int,
) -> tuple[Solution, tuple[Repair, ...]]:
    """Search until measured losses meet the budget's target; the smallest plan that does, else the one losing least.

    Args:
        problem: The problem that is searched.
        budget: Limits that the plan has to keep; its `drop`, above 0, is the target for the measured loss.
        search: Finds a solution for a budget whose `drop` limits the predicted loss.
        measure: Measures the loss of an assignment.
        measurements: Most calls of `measure`; at least 1.

    Raises:
        EvaluationError: A measured loss is NaN.
        InfeasibleBudget: The first search found nothing within the budget.
    """
    budget = Budget.of(budget)
    assert budget.drop
    target = allowed = budget.drop
    met, missed = 0.0, math.inf
    best: Solution | None = None
    losses: dict[Assignment, float] = {}
    log: list[Repair] = []
    history: list[Step] = []
    reason = "predictions have to be measured"
    while len(log) < measurements:
        try:
            found = search(replace(budget, drop=allowed))
        except InfeasibleBudget:
            if best is None:
                raise
            break
        if found.assignment in losses:
            break
        loss = losses[found.assignment] = float(measure(found.assignment))
        if math.isnan(loss):
            raise EvaluationError("the measured loss of a plan is NaN; leave options out that break the model")
        kept = best is None or _rank(found, loss, target) < _rank(best, losses[best.assignment], target)
        best = found if kept else best
        log.append(
            Repair(
                f"a search with {allowed:.3g} allowed to predictions",
                reason,
                found.predicted_loss,
                loss,
                found.bytes,
                kept,
            )
        )
        history.append(Step(found.assignment, loss, found.bytes, found.milliseconds))
        logger.info("predicted %.4g, measured %.4g, target %.4g", found.predicted_loss, loss, target)
        reason = f"{loss:.4g} measured at {found.predicted_loss:.4g} predicted, target {target:.4g}"
        if loss <= target:
            met = max(met, allowed)
        else:
            missed = min(missed, allowed)
        if met and missed < _CLOSE * met:
            break
        allowed = _next(met, missed, allowed, target / max(loss, target / _FACTOR))
    assert best is not None
    measured = replace(
        best,
        measured_loss=losses[best.assignment],
        evaluations=len(history),
        history=tuple(history),
    )
    return measured, tuple(log)


def _next(met: float, missed: float, allowed: float, factor: float) -> float:
    if met and missed < math.inf:
        return math.sqrt(met * missed)
    # A step in the right direction at least, when the measured loss is at the target already.
    return allowed * (max(factor, 1.5) if met else min(max(factor, 1 / _FACTOR), 1 / 1.5))


def _rank(solution: Solution, loss: float, target: float) -> tuple[bool, float, float]:
    return (loss > target, solution.bytes if loss <= target else 0, loss)
