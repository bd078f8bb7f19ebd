"""What every search strategy takes and gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Assignment, Problem

Evaluate: TypeAlias = Callable[[Assignment], float]
"""Function from an assignment to the measured increase of the model's loss; smaller is better."""


@dataclass(frozen=True)
class Step:
    """One assignment that a search evaluated, with its loss and costs.

    Args:
        assignment: The assignment that was evaluated.
        loss: Increase of the model's loss: measured, or predicted where a search had nothing to measure with.
        bytes: Bytes of the whole model.
        milliseconds: Milliseconds of the whole model; None if not known.
    """

    assignment: Assignment
    loss: float
    bytes: int
    milliseconds: float | None


@dataclass(frozen=True)
class Solution:
    """The best assignment that a search found, with its losses and costs.

    Args:
        strategy: Name of the strategy.
        assignment: The best assignment evaluated; within the budget's bytes and milliseconds.
        predicted_loss: Predicted increase of the loss: the sum of the chosen options' losses.
        bytes: Bytes of the whole model.
        milliseconds: Milliseconds of the whole model; None if not known.
        evaluations: Number of distinct assignments that were evaluated.
        history: All evaluations, in order.
        measured_loss: Measured increase of the loss; None if there was nothing to measure with.
    """

    strategy: str
    assignment: Assignment
    predicted_loss: float
    bytes: int
    milliseconds: float | None
    evaluations: int
    history: tuple[Step, ...] = ()
    measured_loss: float | None = None

    @property
    def loss(self) -> float:
        """The measured loss, or the predicted one where nothing was measured."""
        return self.predicted_loss if self.measured_loss is None else self.measured_loss


class Strategy(Protocol):
    """A way to search. Every file of this folder has one.

    Contract: each assignment evaluated or returned is within the budget's bytes and milliseconds, to the byte; never
    more than `evaluations` distinct assignments are evaluated; the same seed gives the same solution; what is
    returned ranks no worse than a `start` that was evaluated.
    """

    def __call__(
        self,
        problem: Problem,
        budget: Budget | str | float,
        evaluate: Evaluate | None = None,
        evaluations: int = 100,
        seed: int = 0,
        start: Assignment | None = None,
        progress: bool = False,
    ) -> Solution:
        """Search for the best assignment within a budget.

        Args:
            problem: The problem to solve: units and their options.
            budget: Limits that the assignment has to keep.
            evaluate: Measures the loss of an assignment; None: predictions are used. Strategies that search on
                predictions alone call it once, on what they found.
            evaluations: Most assignments to evaluate, the start included.
            seed: Seed of random choices.
            start: Assignment within the budget to begin with; strategies that do not search step by step ignore it.
            progress: Show a progress bar.

        Raises:
            InfeasibleBudget: Nothing keeps to the budget, or the float model does.
        """
        ...
