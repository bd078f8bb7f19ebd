"""An assignment within bytes and milliseconds, or the error that says there is none."""

from __future__ import annotations

from importlib.util import find_spec

from hf_quant.errors import InfeasibleBudget
from hf_quant.planner.limits import Limits
from hf_quant.planner.problem import Assignment, Option, Problem

_WEIGHTS = 64
"""Number of weights tried between bytes alone and milliseconds alone."""


def feasible(problem: Problem, limits: Limits) -> Assignment:
    """The cheapest assignment under one limit, or with two limits one that keeps both.

    With two limits, the sum of both costs, each as a share of its limit, is made small with weights from one cost alone
    to the other. Where no weight leads within the limits, scipy decides exactly; without scipy that is taken for no.

    Raises:
        InfeasibleBudget: Nothing keeps to both limits; the message says what each would have to be beside the other.
    """
    if limits.bytes is None or limits.milliseconds is None:
        by_time = limits.milliseconds is not None
        return tuple(_cheapest(problem, 1.0 if by_time else 0.0, 1, 1.0))
    found = []
    for step in range(_WEIGHTS + 1):
        assignment = tuple(_cheapest(problem, step / _WEIGHTS, limits.bytes, limits.milliseconds))
        totals = problem.totals(assignment)
        if limits.allow(totals):
            return assignment
        found.append(totals)
    if find_spec("scipy") is not None:
        from hf_quant.planner.search.ilp import within_limits

        exact = within_limits(problem, limits)
        if exact is not None:
            return exact
    times = [t.milliseconds for t in found if t.bytes <= limits.bytes and t.milliseconds is not None]
    sizes = [t.bytes for t in found if t.milliseconds is not None and t.milliseconds <= limits.milliseconds]
    raise InfeasibleBudget(
        f"{limits.bytes} bytes and {limits.milliseconds:g} ms cannot be kept together: "
        f"at that size {min(times):.4g} ms can be had, or in that time {min(sizes)} bytes. Raise one of the two"
    )


def _cheapest(problem: Problem, weight: float, size: int, time: float) -> list[int]:
    def cost(option: Option) -> tuple[float, float]:
        spent = (1 - weight) * option.bytes / size + weight * (option.milliseconds or 0.0) / time
        return spent, option.loss

    return [min(range(len(unit.options)), key=lambda index: cost(unit.options[index])) for unit in problem.units]
