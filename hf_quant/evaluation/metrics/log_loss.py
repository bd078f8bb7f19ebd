"""Log loss: mean negative log-likelihood of what is right."""

from __future__ import annotations

from hf_quant.evaluation.metrics.base import LossMetric
from hf_quant.evaluation.statistics import Floats


class LogLoss(LossMetric):
    """Log loss: ``sum of losses / number of answers``, in nats.

    Predictions are sums of negative log-likelihoods in nats, one an example; references, how many answers each is the
    sum of.
    """

    summary = "Mean negative log-likelihood of the right answer, in nats."

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Log loss from sums: nats over the number of answers."""
        return {"log_loss": sums[..., 0] / sums[..., 1]}
