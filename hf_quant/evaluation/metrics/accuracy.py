"""Accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric, ratio
from hf_quant.evaluation.statistics import Floats


class Accuracy(SummedMetric):
    """Accuracy: the share of answers that are right, 0 to 1."""

    summary = "Part of the answers that are right."
    shares = {"accuracy": 0}  # noqa: RUF012

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Whether each answer is right, and 1, float64 ``[items, 2]``."""
        right = np.asarray(predictions) == np.asarray(references)
        return np.stack([right, np.ones(len(right))], axis=1).astype(float)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Accuracy from sums: right answers over all answers."""
        return {"accuracy": ratio(sums[..., 0], sums[..., 1])}
