"""Medians and quartiles of repeated measurements, and of ratios that are taken pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hf_quant.errors import EvaluationError


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing, in its unit.

    Args:
        count: How many there were.
        median: Half lie below it.
        low_quartile: A quarter lie below it.
        high_quartile: A quarter lie above it.
        minimum: The smallest: what the machine can do undisturbed, where they are times.
        maximum: The largest.
    """

    count: int
    median: float
    low_quartile: float
    high_quartile: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; quartiles are interpolated between values.

        Raises:
            EvaluationError: There are no values.
        """
        if not values:
            raise EvaluationError("nothing was measured: there are no values to take a median of")
        low, median, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
        )
        return cls(len(values), median, low, high, min(values), max(values))


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of ``over[i] / under[i]``: what two things do at about the same time, so that a drift of the machine cancels."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])
