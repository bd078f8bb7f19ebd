"""Spearman's rank correlation."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from hf_quant.evaluation.metrics.base import Items, ResampledMetric, ratio, vary
from hf_quant.evaluation.statistics import Counts, Floats


class Spearman(ResampledMetric):
    """Spearman's correlation: Pearson's, of the ranks of predicted and true scores; equal scores share a mean rank."""

    summary = "Correlation of the ranks of predicted and true scores, from -1 to 1."

    def resampled(self, predictions: Items, references: Items, draws: Counts) -> dict[str, Floats]:
        """Spearman's correlation of each resample, which is ranked anew, float64 ``[resamples]``."""
        x = rankdata(np.asarray(predictions, float)[draws], axis=-1)
        y = rankdata(np.asarray(references, float)[draws], axis=-1)
        x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
        return {"spearman": ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))}

    def is_defined(self, predictions: Items, references: Items) -> bool:
        """Whether the scores differ: those that are all the same have no correlation."""
        return vary(predictions, references)
