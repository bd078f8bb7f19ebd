"""Steepest descent: from the cheapest assignment up, always where a byte takes away the most loss.

On the lower convex hull of each unit's options the slopes fall, so that taking segments by slope solves the linear
relaxation of the knapsack (Sinha and Zoltners, "The multiple-choice knapsack problem", 1979). What is left of the
budget then goes to single changes over all options.
"""

from __future__ import annotations

from itertools import pairwise

from hf_quant.errors import InfeasibleBudget
from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Assignment, Option, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.moves import Walk


def greedy(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 1,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Greedy search on predicted losses: fast and without scipy. `seed` and `start` change nothing.

    Raises:
        InfeasibleBudget: Nothing keeps to the budget, the float model does, or no assignment was found that meets the
            target for the loss.
    """
    limits = limits_of(problem, budget)
    found = descended(problem, limits)
    loss = problem.totals(found).loss
    if limits.loss is not None and loss > limits.loss:
        raise InfeasibleBudget(
            f"within the other limits greedy found a predicted loss of {loss:.4g}, above the target of "
            f"{limits.loss:g}; raise one of them, or ask 'ilp', which is exact"
        )
    with Evaluator(problem, limits, evaluate, evaluations, "greedy", progress) as evaluator:
        evaluator(found)
        return evaluator.best()


def descended(problem: Problem, limits: Limits) -> Assignment:
    """The assignment that greedy descent finds; it misses the target for the loss if none was found that meets it."""
    base = feasible(problem, limits)
    costs = [0.0, 1.0, 0.5] if limits.bytes is not None and limits.milliseconds is not None else [None]
    candidates = [_one_descent(problem, limits, base, weight) for weight in costs]

    def rank(assignment: Assignment) -> tuple[float, float, float]:
        totals = problem.totals(assignment)
        return limits.rank(totals, totals.loss)

    return min(candidates, key=rank)


def _one_descent(problem: Problem, limits: Limits, base: Assignment, weight: float | None) -> Assignment:
    def cost(option: Option) -> float:
        time = option.milliseconds or 0.0
        if weight is None:
            return time if limits.bytes is None and limits.milliseconds is not None else option.bytes
        return (1 - weight) * option.bytes / (limits.bytes or 1) + weight * time / (limits.milliseconds or 1.0)

    hulls = [hull([(cost(option), option.loss) for option in unit.options]) for unit in problem.units]
    cheapest = tuple(points[0] for points in hulls)
    # With two limits, the cheapest by one may break the other: then only changes from what keeps both are made.
    if not limits.allow(problem.totals(cheapest)):
        walk = Walk(problem, limits, base)
    else:
        walk = Walk(problem, limits, cheapest)
        segments = []
        for unit, points in enumerate(hulls):
            options = problem.units[unit].options
            for low, high in pairwise(points):
                gain = options[low].loss - options[high].loss
                segments.append((gain / (cost(options[high]) - cost(options[low])), unit, low, high))
        segments.sort(key=lambda segment: (-segment[0], segment[1]))
        for _, unit, low, high in segments:
            if _met(problem, limits, walk):
                break
            # A segment is taken after those below it: where one did not fit, the ones above it are passed over.
            if walk.indices[unit] == low and limits.allow(walk.after(unit, high)):
                walk.take(unit, high)
    if not _met(problem, limits, walk):
        _improve(problem, limits, walk)
    if limits.loss is not None:
        _trim(problem, limits.loss, walk)
    return walk.assignment


def hull(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points on the lower convex hull, from the cheapest to the one of least loss.

    Args:
        points: Cost and loss of each point.
    """
    order = sorted(range(len(points)), key=lambda number: points[number])
    kept: list[int] = []
    for number in order:
        cost, loss = points[number]
        if kept and loss >= points[kept[-1]][1]:
            continue
        while len(kept) > 1:
            (x0, y0), (x1, y1) = points[kept[-2]], points[kept[-1]]
            if (y1 - y0) * (cost - x0) < (loss - y0) * (x1 - x0):
                break
            kept.pop()
        kept.append(number)
    return kept


def _met(problem: Problem, limits: Limits, walk: Walk) -> bool:
    return limits.loss is not None and problem.totals(walk.assignment).loss <= limits.loss


def _improve(problem: Problem, limits: Limits, walk: Walk) -> None:
    """Make single changes that fit, the largest gain first, until there is none or the target is met."""
    while not _met(problem, limits, walk):
        gains = []
        for number, unit in enumerate(problem.units):
            now = unit.options[walk.indices[number]]
            for index, option in enumerate(unit.options):
                if option.loss < now.loss and limits.allow(walk.after(number, index)):
                    gains.append((now.loss - option.loss, -number, -index))
        if not gains:
            return
        _, number, index = max(gains)
        walk.take(-number, -index)


def _trim(problem: Problem, target: float, walk: Walk) -> None:
    """Make single changes that save bytes and still meet the target, the largest saving first."""
    while True:
        savings = []
        loss = problem.totals(walk.assignment).loss
        for number, unit in enumerate(problem.units):
            now = unit.options[walk.indices[number]]
            for index, option in enumerate(unit.options):
                cheap = option.bytes < now.bytes and walk.limits.allow(walk.after(number, index))
                if cheap and loss + option.loss - now.loss <= target:
                    savings.append((now.bytes - option.bytes, -number, -index))
        for _, number, index in sorted(savings, reverse=True):
            before = walk.indices[-number]
            walk.take(-number, -index)
            # Exactly: the difference of sums above may be off in its last digit.
            if problem.totals(walk.assignment).loss <= target:
                break
            walk.take(-number, before)
        else:
            return
