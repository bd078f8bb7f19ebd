"""A limit on what may be lost, for scripts and CI."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.report import DropReport, MetricDrop

LEAST_EXAMPLES = 20
"""Fewest examples with which an interval is exact enough to be compared with a limit."""

_LIMIT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|pt|pts|points?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """Whether a report is within a limit.

    Args:
        passed: Whether the report is within the limit.
        message: How far the drop is below or above the limit, in words.
    """

    passed: bool
    message: str


@dataclass(frozen=True)
class Limit:
    """The largest drop of a metric that is allowed.

    Args:
        amount: Largest drop, at least 0: in percent of the reference's value, or in points, which are hundredths of
            metrics that are parts of 1, and units of others.
        is_relative: Whether the amount is in percent of the reference's value, not in points.
    """

    amount: float
    is_relative: bool

    def __post_init__(self) -> None:
        if not math.isfinite(self.amount) or self.amount < 0:
            raise EvaluationError(f"a limit is at least 0, not {self.amount}")

    @classmethod
    def parse(cls, text: str) -> Limit:
        """A limit from its written form: ``"1%"`` of the reference's value, or ``"0.5pt"``.

        Raises:
            EvaluationError: The text has neither form.
        """
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise EvaluationError(
                f"{text!r} is no limit: write 1% for a part of the reference's value, or 0.5pt for points, hundredths "
                "of a metric such as accuracy"
            )
        return cls(float(match[1]), match[2] == "%")

    def __str__(self) -> str:
        return f"{self.amount:g} {'%' if self.is_relative else 'points'}"

    def check(self, report: DropReport, metric: str | None = None, confident: bool = False) -> Verdict:
        """Whether a report is within the limit.

        Args:
            report: Report of the evaluation.
            metric: Name of the metric to check; None for the report's first.
            confident: Compare the upper end of the interval with the limit, not the measured drop; fails where there
                are fewer than `LEAST_EXAMPLES` examples, or the interval has no width.

        Raises:
            EvaluationError: There is no such metric, or the limit is relative and the reference's value is 0.
        """
        found = report.metric(metric)
        if confident and (report.examples < LEAST_EXAMPLES or found.low == found.high):
            why = (
                f"{report.examples} examples are too few, {LEAST_EXAMPLES} are the least"
                if report.examples < LEAST_EXAMPLES
                else "its interval has no width, since the models answer alike as far as it sees"
            )
            return Verdict(False, f"the drop of {found.name} cannot be told with confidence: {why}; take more data")
        lost = self._lost(found, confident)
        passed = lost <= self.amount
        unit = "%" if self.is_relative else "points"
        what = f"the drop of {found.name}"
        if confident:
            what += f", with {report.confidence:.0%} confidence,"
        message = (
            f"{what} is {'at most ' if confident else ''}{lost:.4g} {unit}, {abs(lost - self.amount):.4g} "
            f"{'below' if passed else 'above'} the limit of {self} ({found.reference:.6g} to {found.quantized:.6g})"
        )
        return Verdict(passed, message)

    def _lost(self, metric: MetricDrop, confident: bool) -> float:
        if not self.is_relative:
            return (metric.high if confident else metric.drop) * metric.points_per_unit
        lost = metric.relative_high if confident else metric.relative_drop
        if lost is None:
            raise EvaluationError(f"the reference's {metric.name} is 0, of which there is no part: give a limit in pt")
        return 100 * lost
