"""Pearson's correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric, ratio, vary
from hf_quant.evaluation.statistics import Floats


class Pearson(SummedMetric):
    """Pearson's linear correlation of predicted and true scores."""

    summary = "Linear correlation of predicted and true scores, from -1 to 1."

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """``1, x, y, xx, yy, xy`` of each pair of centred scores, float64 ``[items, 6]``."""
        x, y = np.asarray(predictions, float), np.asarray(references, float)
        # Squares of scores far from zero would cancel. References are the same for both models, and all that a shift
        # of predictions changes is rounding.
        x, y = x - x.mean(), y - y.mean()
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Pearson's correlation from sums: ``(n xy - x y) / sqrt((n xx - x^2) (n yy - y^2))``."""
        count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.maximum(count * xx - x**2, 0) * np.maximum(count * yy - y**2, 0)
        return {"pearson": ratio(count * xy - x * y, np.sqrt(spread))}

    def is_defined(self, predictions: Items, references: Items) -> bool:
        """Whether the scores differ: those that are all the same have no correlation."""
        return vary(predictions, references)
