"""The exact answer for losses that add up: integer linear programming.

One option a unit, bytes and milliseconds within their limits, the least sum of losses: a multiple-choice knapsack
(Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11). With a target for the loss it is the least sum
of bytes instead. HiGHS solves it, through `scipy.optimize.milp`.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hf_quant.errors import InfeasibleBudget, MissingDependency
from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Assignment, Option, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator

logger = logging.getLogger(__name__)

_SCALE = 1e3
"""Largest number of a scaled row: HiGHS compares with 1e-6 whatever the unit is, and larger numbers slow it."""
_CUTS = 100
_SECONDS = 60.0


def ilp(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 1,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """The assignment of least predicted loss within the budget. `seed` and `start` change nothing.

    Raises:
        MissingDependency: scipy is not installed.
        InfeasibleBudget: Nothing keeps to the budget, the float model does, or the target for the loss is not met
            within the other limits.
    """
    limits = limits_of(problem, budget)
    found = _solve(problem, limits, limits.loss is not None)
    if found is None:
        raise InfeasibleBudget(_nothing(problem, limits))
    with Evaluator(problem, limits, evaluate, evaluations, "ilp", progress) as evaluator:
        evaluator(found)
        return evaluator.best()


def within_limits(problem: Problem, limits: Limits) -> Assignment | None:
    """The assignment of least predicted loss that keeps bytes and milliseconds; None if none does."""
    return _solve(problem, replace(limits, loss=None), False)


def _nothing(problem: Problem, limits: Limits) -> str:
    free = within_limits(problem, limits)
    if free is None:
        return (
            f"no choice keeps to {limits.bytes} bytes and {limits.milliseconds:g} ms together, though some keep to "
            "one: raise one of the two"
        )
    smallest = _solve(problem, Limits(loss=limits.loss), True)
    size = "" if smallest is None else f"; a loss of {limits.loss:g} needs {problem.totals(smallest).bytes} bytes"
    return (
        f"within the other limits the least predicted loss is {problem.totals(free).loss:.4g}, above the target of "
        f"{limits.loss:g}{size}. Raise one of them"
    )


def _solve(problem: Problem, limits: Limits, smallest: bool) -> Assignment | None:
    """The assignment of fewest bytes or of least loss within the limits; None if nothing keeps to them."""
    loss, size = (lambda option: option.loss), (lambda option: option.bytes)
    objective = _costs(problem, size if smallest else loss)
    rows: list[tuple[list[float], float]] = []
    for cost, limit, fixed in (
        (size, limits.bytes, problem.fixed_bytes),
        (lambda option: option.milliseconds or 0.0, limits.milliseconds, problem.fixed_milliseconds),
        (loss, limits.loss, 0.0),
    ):
        if limit is not None:
            rows.append(_row(problem, cost, limit - fixed))
    scale = max(map(abs, objective)) or 1.0
    objective = [cost / scale * _SCALE for cost in objective]
    cuts: list[Assignment] = []
    while len(cuts) < _CUTS:
        found = _milp(problem, objective, rows, cuts)
        if found is None:
            return None
        totals = problem.totals(found)
        if limits.allow(totals) and (limits.loss is None or totals.loss <= limits.loss):
            return found
        # Within HiGHS's tolerance of a limit, and beyond it all the same: this one is excluded, and no other.
        cuts.append(found)
    raise InfeasibleBudget(f"the solver could not tell whether {limits} can be kept; raise the limits by a millionth")


def _costs(problem: Problem, cost: Callable[[Option], float]) -> list[float]:
    """Costs of all options, each less the least of its unit: small numbers lose fewer digits."""
    costs: list[float] = []
    for unit in problem.units:
        least = min(cost(option) for option in unit.options)
        costs.extend(cost(option) - least for option in unit.options)
    return costs


def _row(problem: Problem, cost: Callable[[Option], float], limit: float) -> tuple[list[float], float]:
    costs = _costs(problem, cost)
    least = math.fsum(min(cost(option) for option in unit.options) for unit in problem.units)
    # What a difference of such numbers cannot tell is given away: what it lets through is looked at once more.
    unknown = sys.float_info.epsilon * max(abs(limit), abs(least))
    left = limit - least + unknown
    scale = max(max(costs), abs(left), unknown) or 1.0
    return [value / scale * _SCALE for value in costs], left / scale * _SCALE


def _milp(
    problem: Problem, objective: list[float], rows: Sequence[tuple[list[float], float]], cuts: Sequence[Assignment]
) -> Assignment | None:
    try:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingDependency('exact plans need scipy: pip install "hf-quant[plan]"; "greedy" needs none') from error
    owner = [number for number, unit in enumerate(problem.units) for _ in unit.options]
    first = [owner.index(number) for number in range(len(problem.units))]
    ones = np.ones(len(owner))
    choices = csr_array((ones, (owner, range(len(owner)))), shape=(len(problem.units), len(owner)))
    constraints: list[Any] = [LinearConstraint(choices, 1, 1)]
    constraints += [LinearConstraint(np.array([costs]), -np.inf, limit) for costs, limit in rows]
    for cut in cuts:
        chosen = np.zeros((1, len(owner)))
        chosen[0, [start + index for start, index in zip(first, cut, strict=True)]] = 1
        constraints.append(LinearConstraint(chosen, -np.inf, len(cut) - 1))
    result = milp(
        np.array(objective),
        integrality=ones,
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0, "time_limit": _SECONDS},
    )
    if result.x is None:
        if result.status == 2:
            return None
        raise InfeasibleBudget(f"the solver gave up ({result.message}); use the strategy 'greedy', or a larger budget")
    if result.status != 0:
        logger.warning("ilp stopped after %.0f s, at most %.3g %% from the optimum", _SECONDS, 100 * result.mip_gap)
    return tuple(
        int(np.argmax(result.x[start : start + len(unit.options)]))
        for start, unit in zip(first, problem.units, strict=True)
    )
