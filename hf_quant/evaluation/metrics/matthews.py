"""Matthews correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric, ratio
from hf_quant.evaluation.statistics import Floats


class Matthews(SummedMetric):
    """Matthews correlation of predicted and true classes, for any number of classes (Gorodkin, 2004)."""

    summary = "Correlation of predicted and true classes, from -1 to 1."
    by_class = True

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """1, whether the item is right, and whether each class is predicted and true: ``[items, 2 + 2 classes]``."""
        predicted = np.asarray(predictions)[:, None] == np.asarray(labels)
        there = np.asarray(references)[:, None] == np.asarray(labels)
        right = (predicted & there).any(1, keepdims=True)
        return np.concatenate([np.ones_like(right), right, predicted, there], axis=1).astype(float)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Correlation from sums, ``(n c - p t) / sqrt((n^2 - p p) (n^2 - t t))``.

        `c` of `n` items are right; `p` and `t` count predicted and true classes.
        """
        count, right = sums[..., 0], sums[..., 1]
        predicted, there = np.split(sums[..., 2:], 2, axis=-1)
        together = count * right - (predicted * there).sum(-1)
        spread = (count**2 - (predicted**2).sum(-1)) * (count**2 - (there**2).sum(-1))
        return {"matthews": ratio(together, np.sqrt(np.maximum(spread, 0)))}
