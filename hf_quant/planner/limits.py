"""A budget for one problem: numbers that an assignment keeps or does not, and whether any can."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from hf_quant.errors import InfeasibleBudget, PlanError
from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Option, Problem, Totals

_DIGITS = 4
"""Significant digits of the budgets that messages propose."""


@dataclass(frozen=True)
class Limits:
    """Numbers that an assignment must not exceed; None where there is no limit.

    Args:
        bytes: Most bytes of the whole model.
        milliseconds: Most milliseconds of the whole model.
        loss: Target for the rise of the loss; a plan that is predicted to meet it may miss it when measured.
    """

    bytes: int | None = None
    milliseconds: float | None = None
    loss: float | None = None

    def allow(self, totals: Totals) -> bool:
        """Whether bytes and milliseconds are within the limits, exactly."""
        if self.bytes is not None and totals.bytes > self.bytes:
            return False
        return self.milliseconds is None or (
            totals.milliseconds is not None and totals.milliseconds <= self.milliseconds
        )

    def excess(self, totals: Totals) -> float:
        """How far the totals exceed the limits, as a sum of shares of each limit; 0 within them."""
        excess = 0.0
        if self.bytes is not None:
            excess += max(0.0, (totals.bytes - self.bytes) / self.bytes)
        if self.milliseconds is not None:
            time = math.inf if totals.milliseconds is None else totals.milliseconds
            excess += max(0.0, (time - self.milliseconds) / self.milliseconds)
        return excess

    def rank(self, totals: Totals, loss: float) -> tuple[float, float, float]:
        """Sort key that searches minimise: the loss, or with a target for it the bytes of what meets it.

        Args:
            totals: Bytes and milliseconds of the assignment.
            loss: Loss of the assignment: measured if it has been, else predicted.
        """
        if self.loss is None:
            return 0, loss, totals.bytes
        return (0, totals.bytes, loss) if loss <= self.loss else (1, loss, totals.bytes)


def limits_of(problem: Problem, budget: Budget | str | float) -> Limits:
    """The limits that a budget sets for a problem.

    Each limit is compared with the least that the units can come to; that two limits contradict each other only
    together, `search.feasible` finds out.

    Raises:
        InfeasibleBudget: A limit is below that least (which is given, in the same unit), or the float model keeps
            to all of them.
        PlanError: Milliseconds are limited, and the time of an option is not known.
        ConfigError: The budget cannot be read.
    """
    budget = Budget.of(budget)
    if budget.milliseconds is not None:
        _check_times(problem)
    least_bytes = int(_least(problem, lambda option: option.bytes, problem.fixed_bytes))
    sizes = []
    for limit, convert, inverse in (
        ("bytes", lambda value: value, lambda size: size),
        (
            "bits_per_weight",
            lambda value: problem.fixed_bytes + math.floor(_exact(value) * problem.weights / 8),
            lambda size: 8 * (size - problem.fixed_bytes) / problem.weights,
        ),
        (
            "share",
            lambda value: math.floor(_exact(value) * problem.float_bytes),
            lambda size: size / problem.float_bytes,
        ),
    ):
        value = getattr(budget, limit)
        if value is not None:
            sizes.append(convert(value))
            if sizes[-1] < least_bytes:
                raise _below(budget, limit, value, inverse(least_bytes), "the smallest model the schemes allow")
    limits = Limits(min(sizes, default=None), budget.milliseconds, budget.drop)
    if limits.milliseconds is not None:
        least = _least(problem, lambda option: option.milliseconds or 0.0, problem.fixed_milliseconds)
        if limits.milliseconds < least:
            raise _below(budget, "milliseconds", limits.milliseconds, least, "the fastest model the schemes allow")
    if limits.loss is not None:
        least = _least(problem, lambda option: option.loss)
        if limits.loss < least:
            raise _below(budget, "drop", limits.loss, least, "the least that is predicted of any choice")
    elif _float_fits(problem, limits):
        raise InfeasibleBudget(
            f"the float model keeps to {budget} already ({budget.shown('bytes', problem.float_bytes, _DIGITS)}): "
            "leave it as it is, or give a smaller budget"
        )
    return limits


def _below(budget: Budget, limit: str, value: float, least: float, what: str) -> InfeasibleBudget:
    enough = budget.shown(limit, least, _DIGITS)
    return InfeasibleBudget(
        f"{budget.shown(limit, value)} cannot be kept: {what} needs {enough}. Ask for at least that"
    )


def _least(problem: Problem, cost: Callable[[Option], float], fixed: float = 0) -> float:
    return math.fsum([fixed, *(min(cost(option) for option in unit.options) for unit in problem.units)])


def _exact(value: float) -> Fraction:
    # As it was written: 4.4 bits for 100 weights are 55 bytes, and not 54 for want of the last binary digit.
    return Fraction(repr(value))


def _check_times(problem: Problem) -> None:
    for unit in problem.units:
        for option in unit.options:
            if option.milliseconds is None:
                raise PlanError(
                    f"the budget limits milliseconds, and those of {unit.name} as {option.name} are not known: "
                    "measure them, or give a budget of bytes"
                )


def _float_fits(problem: Problem, limits: Limits) -> bool:
    if limits.bytes is not None and limits.bytes < problem.float_bytes:
        return False
    if limits.milliseconds is None:
        return True
    times = [option.milliseconds for unit in problem.units for option in unit.options if option.scheme is None]
    if len(times) < len(problem.units):
        return False  # a unit is not offered as float, and its time not known
    return math.fsum([problem.fixed_milliseconds, *(time or 0.0 for time in times)]) <= limits.milliseconds
