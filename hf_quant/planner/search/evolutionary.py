"""Evolution by switching levels: one unit up, others down for it, so that no child leaves the budget.

EvoPress (Sieberling et al., arXiv:2410.14649) showed that losses need not add up, and searches on the measured loss of
the whole model. As there, few units change at a time, and children are chosen from in two rounds; the first is by
predicted loss here, where EvoPress measures on few tokens.
"""

from __future__ import annotations

import random

from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.greedy import descended
from hf_quant.planner.search.moves import Ladder, Walk, within

_ELITE = 3
"""Number of assignments that survive a generation."""
_CHILDREN = 6
"""Number of children that are evaluated in a generation."""
_DRAWN = 4
"""Number of children drawn for each that is evaluated."""
_SWITCHES = 3
"""Most units that a child raises."""
_BARREN = 20
"""Generations without a new child after which the search ends."""


def evolutionary(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 100,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Evolutionary search that begins with `start`, or with what `greedy` finds."""
    limits = limits_of(problem, budget)
    first = descended(problem, limits) if start is None else tuple(start)
    mutate = _Mutation(problem, limits, random.Random(seed))
    with Evaluator(problem, limits, evaluate, evaluations, "evolutionary", progress) as evaluator:
        evaluator(first)
        elite, barren = [first], 0
        while evaluator.left and barren < _BARREN:
            drawn: dict[Assignment, None] = {}
            for _ in range(_CHILDREN * _DRAWN):
                parent = mutate.random.choice(elite)
                child = mutate(parent, evaluator.rank(parent)[0] == 0)
                if not evaluator.seen(child):
                    drawn[child] = None
            children = _preselected(problem, limits, list(drawn))[: evaluator.left]
            barren = 0 if children else barren + 1
            for child in children:
                evaluator(child)
            elite = sorted({*elite, *children}, key=lambda one: (evaluator.rank(one), one))[:_ELITE]
        return evaluator.best()


def _preselected(problem: Problem, limits: Limits, drawn: list[Assignment]) -> list[Assignment]:
    """The children to evaluate: half by predicted loss, half as drawn, since predictions may be wrong."""
    half = _CHILDREN // 2
    drawn_first, others = drawn[:half], drawn[half:]
    totals = {one: problem.totals(one) for one in others}
    return drawn_first + sorted(others, key=lambda one: limits.rank(totals[one], totals[one].loss))[: _CHILDREN - half]


class _Mutation:
    def __init__(self, problem: Problem, limits: Limits, random: random.Random):
        self.problem, self.limits, self.random = problem, limits, random
        self.ladder = Ladder(problem, limits)
        self.base = feasible(problem, limits)

    def __call__(self, parent: Assignment, good: bool) -> Assignment:
        """A mutated child of a parent; it is no larger than a `good` parent, one that meets the target for the loss."""
        if self.limits.loss is None or not good:
            return self._switched(parent, self.limits, fill=self.limits.loss is None)
        walk = Walk(self.problem, self.limits, parent)
        for unit in self.random.sample(range(len(parent)), min(self._few(), len(parent))):
            lower = self.ladder.down(unit, parent[unit])
            if lower is not None and self.limits.allow(walk.after(unit, lower)):
                walk.take(unit, lower)
        if self.random.random() < 0.5:
            return walk.assignment
        size = self.problem.totals(parent).bytes
        return self._switched(walk.assignment, within(self.limits, size), fill=False, base=walk.assignment)

    def _switched(self, parent: Assignment, limits: Limits, fill: bool, base: Assignment | None = None) -> Assignment:
        walk = Walk(self.problem, limits, parent)
        raised = []
        for unit in self._shuffled()[: self._few()]:
            higher = self.ladder.up(unit, parent[unit])
            if higher is not None:
                walk.take(unit, higher)
                raised.append(unit)
        # Those just raised come last, or a switch would be undone at once.
        walk.down(self.ladder, base or self.base, lambda: sorted(self._shuffled(), key=raised.__contains__))
        if fill:
            walk.up(self.ladder, self._shuffled)
        return walk.assignment

    def _few(self) -> int:
        # The smaller of two throws: one switch is likelier than three.
        return min(self.random.randint(1, _SWITCHES), self.random.randint(1, _SWITCHES))

    def _shuffled(self) -> list[int]:
        return self.random.sample(range(len(self.problem.units)), len(self.problem.units))
