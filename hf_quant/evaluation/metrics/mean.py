"""Means of scores that somebody else has given, one an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric
from hf_quant.evaluation.statistics import Floats


class Mean(SummedMetric):
    """Mean of scores that are better when higher, given as predictions. References do not matter."""

    summary = "Mean of scores that are better when higher."

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Score of each example, and 1, float64 ``[examples, 2]``."""
        scores = np.asarray(predictions, float)
        return np.stack([scores, np.ones_like(scores)], axis=1)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Mean from sums: scores over their number."""
        return {"mean": sums[..., 0] / sums[..., 1]}


class MeanCost(Mean):
    """Mean of scores that are better when lower, given as predictions. References do not matter."""

    summary = "Mean of scores that are better when lower."
    higher_is_better = False
