"""What every search strategy takes and gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Assignment, Problem

Evaluate: TypeAlias = Callable[[Assignment], float]
"""The measured increase of the loss of a model quantized so; smaller is better."""


@dataclass(frozen=True)
class Step:
    """One evaluation of a search.

    Args:
        assignment: What was evaluated.
        loss: That came out; predicted, where a search had nothing to measure with.
        bytes: Of the assignment.
        milliseconds: Of the assignment, or None.
    """

    assignment: Assignment
    loss: float
    bytes: int
    milliseconds: float | None


@dataclass(frozen=True)
class Solution:
    """What a search found.

    Args:
        strategy: Its name.
        assignment: The best it has seen; within the budget's bytes and milliseconds.
        predicted_loss: The sum of the options' losses.
        bytes: Of the whole model.
        milliseconds: Of the whole model, or None.
        evaluations: How often a loss was asked for that had not been before.
        history: Every evaluation, in order.
        measured_loss: Of the assignment, if there was something to measure with.
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
        """Search.

        Args:
            problem: What to choose among.
            budget: What to keep to.
            evaluate: Measures the loss of an assignment; None searches on predictions. What needs one measurement
                only, of what it found, takes one.
            evaluations: Most assignments to evaluate, the start among them.
            seed: Of random choices.
            start: An assignment within the budget to begin with; what does not search step by step ignores it.
            progress: Show a progress bar.

        Raises:
            InfeasibleBudget: Nothing keeps to the budget, or the float model does.
        """
        ...
