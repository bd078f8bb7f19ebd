"""Losses of assignments: counted, remembered, and never asked for outside the budget."""

from __future__ import annotations

import logging
import math
from types import TracebackType

from tqdm.auto import tqdm

from hf_quant.errors import ConfigError, EvaluationError
from hf_quant.planner.limits import Limits
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution, Step

logger = logging.getLogger(__name__)


class Evaluator:
    """Evaluates assignments for one search, and remembers their losses.

    Args:
        problem: The problem that is searched; its predicted losses are used if there is nothing to measure with.
        limits: Limits that every evaluated assignment has to keep.
        evaluate: Measures the loss of an assignment; None: predicted losses are used.
        evaluations: Most distinct assignments to evaluate.
        strategy: Name of the strategy.
        progress: Show a progress bar.

    Raises:
        ConfigError: `evaluations` is below 1.
    """

    def __init__(
        self,
        problem: Problem,
        limits: Limits,
        evaluate: Evaluate | None,
        evaluations: int,
        strategy: str,
        progress: bool = False,
    ):
        if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 1:
            raise ConfigError(f"evaluations must be an integer of at least 1, not {evaluations!r}")
        self.problem, self.limits, self.strategy = problem, limits, strategy
        self.evaluate, self.evaluations = evaluate, evaluations
        self.history: list[Step] = []
        self._losses: dict[Assignment, float] = {}
        self._bar = tqdm(total=evaluations, desc=strategy, unit="evaluation", disable=not progress)

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    @property
    def left(self) -> int:
        """Number of evaluations that are left."""
        return self.evaluations - len(self.history)

    def __call__(self, assignment: Assignment) -> float:
        """The loss of an assignment; one that was seen before is not evaluated again.

        Raises:
            ConfigError: The assignment is beyond the budget, as a given `start` may be.
            EvaluationError: The measured loss is NaN.
        """
        if assignment in self._losses:
            return self._losses[assignment]
        totals = self.problem.totals(assignment)
        if not self.limits.allow(totals):
            raise ConfigError(
                f"an assignment of {totals.bytes} bytes, {totals.milliseconds} ms is beyond the budget "
                f"({self.limits}); a start has to keep to it"
            )
        if self.left < 1:
            raise RuntimeError(f"{self.strategy} asked for more than its {self.evaluations} evaluations")
        loss = totals.loss if self.evaluate is None else float(self.evaluate(assignment))
        if math.isnan(loss):
            raise EvaluationError(f"the measured loss of {assignment} is NaN; look for an option that breaks the model")
        self._losses[assignment] = loss
        self.history.append(Step(assignment, loss, totals.bytes, totals.milliseconds))
        self._bar.update()
        return loss

    def seen(self, assignment: Assignment) -> bool:
        """Whether an assignment's loss is known already."""
        return assignment in self._losses

    def rank(self, assignment: Assignment) -> tuple[float, float, float]:
        """Sort key of an assignment that searches minimise; evaluates the assignment."""
        loss = self(assignment)
        return self.limits.rank(self.problem.totals(assignment), loss)

    def best(self) -> Solution:
        """The best of all evaluated assignments; of equals, the first."""
        step = min(self.history, key=lambda step: self.rank(step.assignment))
        totals = self.problem.totals(step.assignment)
        logger.info(
            "%s: loss %.6g at %d bytes after %d evaluations", self.strategy, step.loss, totals.bytes, len(self.history)
        )
        return Solution(
            strategy=self.strategy,
            assignment=step.assignment,
            predicted_loss=totals.loss,
            bytes=totals.bytes,
            milliseconds=totals.milliseconds,
            evaluations=len(self.history),
            history=tuple(self.history),
            measured_loss=None if self.evaluate is None else step.loss,
        )
