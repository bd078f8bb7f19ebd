"""Perplexity per token, of losses that somebody else has computed."""

from __future__ import annotations

import numpy as np

from hf_quant.evaluation.metrics.base import LossMetric
from hf_quant.evaluation.statistics import Floats


class Perplexity(LossMetric):
    """Perplexity: ``exp(sum of losses / number of tokens)``.

    Predictions are sums of negative log-likelihoods in nats, one a text or window; references, how many tokens each is
    the sum of.
    """

    summary = "exp(sum of negative log-likelihoods / number of tokens)."

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Perplexity from sums: the exponential of nats over tokens."""
        return {"perplexity": np.exp(sums[..., 0] / sums[..., 1])}
