"""F1: the harmonic mean of precision and recall, of one class or averaged over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric, ratio
from hf_quant.evaluation.statistics import Floats


class F1(SummedMetric):
    """F1, ``2 TP / (2 TP + FP + FN)``, of class 1 where all classes are 0 and 1, else averaged over classes."""

    summary = "F1 of class 1 where there are classes 0 and 1, otherwise the mean over classes."
    by_class = True
    average: ClassVar[str | None] = None

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Whether each class, or class 1 alone, is hit, predicted, and true, float64 ``[items, 3 * classes]``."""
        if self.average is None and set(labels) <= {0, 1}:
            labels = [1]
        predicted = np.asarray(predictions)[:, None] == np.asarray(labels)
        there = np.asarray(references)[:, None] == np.asarray(labels)
        return np.concatenate([predicted & there, predicted, there], axis=1).astype(float)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """F1 from sums: ``2 TP / (predicted + true)``, averaged over the classes that are predicted or true."""
        hit, predicted, there = np.split(sums, 3, axis=-1)
        if self.average == "micro":
            return {"f1": ratio(2 * hit.sum(-1), (predicted + there).sum(-1))}
        each = ratio(2 * hit, predicted + there)
        weights = there if self.average == "weighted" else (predicted + there) > 0
        return {"f1": ratio((each * weights).sum(-1), weights.sum(-1))}


class MacroF1(F1):
    """Macro F1: the mean of all classes' F1."""

    summary = "Mean of the F1 of all classes."
    average = "macro"


class MicroF1(F1):
    """Micro F1: F1 of the counts of all classes together."""

    summary = "F1 of the counts of all classes together."
    average = "micro"


class WeightedF1(F1):
    """Weighted F1: the mean of all classes' F1, each weighted by how often the class is true."""

    summary = "Mean of the F1 of all classes, weighted by how often each is there."
    average = "weighted"
