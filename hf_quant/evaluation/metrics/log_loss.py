"""Log loss: mean negative log-likelihood of what is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import LOSSES, Items, SummedMetric
from hf_quant.evaluation.statistics import Floats


class LogLoss(SummedMetric):
    """``sum of losses / number of answers``, in nats.

    Predictions are sums of negative log-likelihoods in nats, one an example; references, how many answers each is the
    sum of.
    """

    summary = "Mean negative log-likelihood of the right answer, in nats."
    needs = LOSSES
    higher_is_better = False
    is_fraction = False

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Nats and answers."""
        return np.stack([np.asarray(predictions, float), np.asarray(references, float)], axis=1)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """The quotient."""
        return {"log_loss": sums[..., 0] / sums[..., 1]}
