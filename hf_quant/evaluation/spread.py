"""Medians and quartiles of repeated measurements, and of ratios that are taken pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hf_quant.errors import EvaluationError


@dataclass(frozen=True)
class Spread:
    """Quartiles and extremes of repeated measurements, in the unit of the measurements.

    Args:
        count: Number of measurements.
        median: Median of the measurements.
        low_quartile: Lower quartile: a quarter of the measurements lie below it.
        high_quartile: Upper quartile: a quarter of the measurements lie above it.
        minimum: Smallest measurement; of times, what the machine can do undisturbed.
        maximum: Largest measurement.
    """

    count: int
    median: float
    low_quartile: float
    high_quartile: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value or more; quartiles are interpolated between values.

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
    """Spread of ``over[i] / under[i]``; pairs are measured at about one time, so that drifts of the machine cancel."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])
