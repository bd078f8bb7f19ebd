"""Bits per byte, which compares language models whatever their tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_quant.evaluation.metrics.base import BYTES, Items, SummedMetric
from hf_quant.evaluation.statistics import Floats


class BitsPerByte(SummedMetric):
    """Bits per byte: ``sum of losses / (ln 2 * bytes of UTF-8)``.

    Predictions are sums of negative log-likelihoods in nats, one a text or window; references, how many bytes of text
    the tokens stand for.
    """

    summary = "Bits that a text compressed by the model would take, per byte of UTF-8."
    needs = BYTES
    higher_is_better = False
    is_fraction = False

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Bits and bytes of each text or window, float64 ``[items, 2]``."""
        return np.stack([np.asarray(predictions, float) / np.log(2), np.asarray(references, float)], axis=1)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Bits per byte from sums: bits over bytes."""
        return {"bits_per_byte": sums[..., 0] / sums[..., 1]}
