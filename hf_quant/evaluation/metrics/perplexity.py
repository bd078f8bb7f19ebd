"""Perplexity per token, of losses that somebody else has computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import LOSSES, Items, SummedMetric
from hf_quant.evaluation.statistics import Floats


class Perplexity(SummedMetric):
    """``exp(sum of losses / number of tokens)``.

    Predictions are sums of negative log-likelihoods in nats, one a text or window; references, how many tokens each is
    the sum of.
    """

    summary = "exp(sum of negative log-likelihoods / number of tokens)."
    needs = LOSSES
    higher_is_better = False
    is_fraction = False

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Nats and tokens."""
        return np.stack([np.asarray(predictions, float), np.asarray(references, float)], axis=1)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """The exponential of the quotient."""
        return {"perplexity": np.exp(sums[..., 0] / sums[..., 1])}
