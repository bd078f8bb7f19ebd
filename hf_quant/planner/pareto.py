"""The Pareto front: solutions that no other one beats in everything."""

from __future__ import annotations

from collections.abc import Iterable

from hf_quant.errors import ConfigError, InfeasibleBudget
from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Problem
from hf_quant.planner.search import STRATEGIES
from hf_quant.planner.search.base import Evaluate, Solution


def front(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """The Pareto front: solutions that no other one matches or beats in bytes, loss and, if known, milliseconds.

    Args:
        solutions: Solutions of one problem, in any order; all with measured losses or all with predicted ones, as the
            two are compared as they are.

    Returns:
        The front, smallest first; of several equal solutions, the first.
    """
    kept: list[Solution] = []
    # Whoever beats another comes before it here, but for times that are not known.
    for solution in sorted(solutions, key=lambda one: (one.bytes, one.loss, one.milliseconds or 0.0)):
        if not any(_beats(other, solution) for other in kept):
            kept = [other for other in kept if not _beats(solution, other)]
            kept.append(solution)
    return tuple(kept)


def sweep(
    problem: Problem,
    strategy: str = "greedy",
    points: int = 9,
    milliseconds: float | None = None,
    evaluate: Evaluate | None = None,
    evaluations: int = 1,
    seed: int = 0,
) -> tuple[Solution, ...]:
    """The Pareto front of one strategy, under budgets from the smallest possible model to just below the float one.

    Sizes are in equal ratios: a step from 3 to 4 bits says more than one from 15 to 16.

    Args:
        problem: The problem to solve: units and their options.
        strategy: Name of the search strategy, one of `STRATEGIES`.
        points: Number of budgets, at least 2; those that nothing keeps to together with `milliseconds` are left out.
        milliseconds: Most milliseconds of the model under every budget; None for no limit.
        evaluate: Measures the loss of an assignment; None: searches go by predictions.
        evaluations: Most assignments to evaluate for each budget.
        seed: Seed of random choices.

    Raises:
        InfeasibleBudget: Nothing keeps to `milliseconds` at any size.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ConfigError(f"points must be an integer of at least 2, not {points!r}")
    search = STRATEGIES[strategy]
    least = max(1, problem.fixed_bytes + sum(min(o.bytes for o in unit.options) for unit in problem.units))
    most = max(least, problem.float_bytes - 1)
    if least >= problem.float_bytes:
        return ()  # all that may be chosen is to stay float
    solutions, refused = [], None
    for point in range(points):
        size = min(most, max(least, round(least * (most / least) ** (point / (points - 1)))))
        try:
            solutions.append(
                search(problem, Budget(bytes=size, milliseconds=milliseconds), evaluate, evaluations, seed)
            )
        except InfeasibleBudget as error:
            refused = error
    if not solutions and refused is not None:
        raise refused
    return front(solutions)


def _beats(one: Solution, other: Solution) -> bool:
    """Whether one solution is at least as good as another in everything; an equal one is too, so that one is kept."""
    if one.milliseconds is not None and other.milliseconds is not None and one.milliseconds > other.milliseconds:
        return False
    return one.bytes <= other.bytes and one.loss <= other.loss
