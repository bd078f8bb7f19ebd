"""Metrics of losses that somebody else has computed."""

import math

import pytest

from hf_quant.evaluation.metrics.bits_per_byte import BitsPerByte
from hf_quant.evaluation.metrics.log_loss import LogLoss
from hf_quant.evaluation.metrics.perplexity import Perplexity

LOSSES, COUNTS = [6.0, 10.0], [2, 6]


@pytest.mark.parametrize(
    ("metric", "name", "value"),
    [
        (Perplexity, "perplexity", math.exp(2)),
        (LogLoss, "log_loss", 2.0),
        (BitsPerByte, "bits_per_byte", 2.0 / math.log(2)),
    ],
)
def test_sums_are_divided_by_sums(metric, name, value):
    assert metric().compute(predictions=LOSSES, references=COUNTS) == {name: pytest.approx(value)}
    assert not metric.higher_is_better and not metric.is_fraction
