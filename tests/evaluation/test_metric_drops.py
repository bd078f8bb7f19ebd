"""Drops of metrics and their intervals, whatever the metric is made of."""

import datasets
import evaluate
import numpy as np
import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import metric_drops as module
from hf_quant.evaluation.metric_drops import MetricInputs, metric_drops
from hf_quant.evaluation.metrics.accuracy import Accuracy
from hf_quant.evaluation.metrics.perplexity import Perplexity
from hf_quant.evaluation.statistics import Bootstrap

BOOTSTRAP = Bootstrap(500)
RIGHT = np.array([0, 1, 2] * 20)
GOOD = np.where(np.arange(60) % 10 == 0, (RIGHT + 1) % 3, RIGHT)
POOR = np.where(np.arange(60) % 4 == 0, (RIGHT + 1) % 3, RIGHT)


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch):
    """Each costs milliseconds."""
    monkeypatch.setattr(module, "FOREIGN_RESAMPLES", 60)


class Foreign(evaluate.Metric):
    """Accuracy as somebody else writes it."""

    def _info(self):
        kinds = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="d", citation="", inputs_description="", features=kinds)

    def _compute(self, predictions, references):
        return {"accuracy": self.value(np.array(predictions), np.array(references)), "note": "text"}

    def value(self, predictions, references):
        return float((predictions == references).mean())


def only(metric, inputs, bootstrap=BOOTSTRAP):
    (drop,) = metric_drops(metric, inputs, bootstrap)
    return drop


def test_a_metric_that_is_better_when_higher_is_lost_when_it_falls():
    drop = only(Accuracy(), MetricInputs(RIGHT, (GOOD, POOR)))
    assert (drop.reference, drop.quantized) == (0.9, 0.75)
    assert drop.drop == pytest.approx(0.15) and drop.relative_drop == pytest.approx(0.15 / 0.9)
    assert drop.low < 0.15 < drop.high and drop.is_fraction and drop.points_per_unit == 100
    back = only(Accuracy(), MetricInputs(RIGHT, (POOR, GOOD)))
    assert back.drop == -drop.drop and back.low == pytest.approx(-drop.high, abs=0.02)


def test_a_metric_that_is_better_when_lower_is_lost_when_it_rises():
    generator = np.random.default_rng(0)
    losses = generator.exponential(size=50)
    drop = only(Perplexity(), MetricInputs([2] * 50, (losses, losses + 0.1)))
    assert drop.drop == pytest.approx(drop.quantized - drop.reference) and drop.drop > 0
    # What each example loses is the same, and so is the ratio of perplexities in every resample.
    assert drop.relative_drop == pytest.approx(np.exp(0.05) - 1)
    assert (drop.relative_low, drop.relative_high) == (pytest.approx(np.exp(0.05) - 1),) * 2
    assert drop.points_per_unit == 1


def test_the_interval_is_paired():
    """Two models that err on the same examples are known better apart than two that err on others."""
    same = only(Accuracy(), MetricInputs(RIGHT, (GOOD, np.where(np.arange(60) % 10 < 2, (RIGHT + 1) % 3, RIGHT))))
    others = np.where(np.isin(np.arange(60) % 10, [4, 5]), (RIGHT + 1) % 3, RIGHT)
    other = only(Accuracy(), MetricInputs(RIGHT, (GOOD, others)))
    assert same.drop == pytest.approx(other.drop)
    assert same.high - same.low < other.high - other.low


def test_items_of_an_example_are_drawn_together():
    owner = np.repeat(np.arange(20), 3)
    # All items of an example are right or wrong together, so that there are 20 observations, not 60.
    wrong = np.where(owner % 4 == 0, (RIGHT + 1) % 3, RIGHT)
    clustered = only(Accuracy(), MetricInputs(RIGHT, (RIGHT, wrong), owner))
    apart = only(Accuracy(), MetricInputs(RIGHT, (RIGHT, wrong)))
    assert clustered.drop == apart.drop == 0.25
    assert clustered.high - clustered.low > 1.4 * (apart.high - apart.low)


def test_a_foreign_metric_gets_a_like_interval():
    own = only(Accuracy(), MetricInputs(RIGHT, (GOOD, POOR)))
    foreign = only(Foreign(), MetricInputs(RIGHT, (GOOD, POOR)))
    assert (foreign.name, foreign.drop) == ("accuracy", own.drop)
    assert foreign.low == pytest.approx(own.low, abs=0.05) and foreign.high == pytest.approx(own.high, abs=0.05)


def test_a_foreign_metric_is_computed_for_a_bounded_number_of_resamples(monkeypatch):
    calls = []
    monkeypatch.setattr(Foreign, "value", lambda self, *args: calls.append(1) or float(len(calls) % 2))
    metric_drops(Foreign(), MetricInputs(RIGHT, (GOOD, POOR)), Bootstrap(10_000))
    assert len(calls) == 2 + 2 * 60


def test_a_foreign_metric_draws_items_of_an_example_together():
    owner = np.repeat(np.arange(20), 3)
    wrong = np.where(owner % 4 == 0, (RIGHT + 1) % 3, RIGHT)
    clustered = only(Foreign(), MetricInputs(RIGHT, (RIGHT, wrong), owner))
    own = only(Accuracy(), MetricInputs(RIGHT, (RIGHT, wrong), owner))
    assert clustered.high - clustered.low == pytest.approx(own.high - own.low, abs=0.08)


def test_a_relative_drop_of_nothing_is_none():
    drop = only(Accuracy(), MetricInputs(RIGHT, ((RIGHT + 1) % 3, RIGHT)))
    assert drop.drop == -1 and drop.relative_drop is drop.relative_low is drop.relative_high is None


def test_one_example_says_next_to_nothing():
    drop = only(Accuracy(), MetricInputs([1], ([1], [0])))
    assert (drop.drop, drop.high) == (1, 1) and drop.low < -0.5
    drop = only(Perplexity(), MetricInputs([1], ([1.0], [2.0])))
    assert drop.low == drop.drop == drop.high


def test_no_flip_among_few_examples_is_not_taken_for_none_at_all():
    few, many = (only(Accuracy(), MetricInputs(RIGHT[:count], (GOOD[:count],) * 2)) for count in (30, 60))
    assert few.drop == many.drop == 0
    for drop in (few, many):
        assert drop.low == pytest.approx(-drop.high)
    assert 0.05 < many.high < few.high
    assert many.relative_high == pytest.approx(many.high / 0.9)


def test_a_metric_that_is_nan_is_refused(monkeypatch):
    monkeypatch.setattr(Foreign, "value", lambda self, *args: float("nan"))
    with pytest.raises(EvaluationError, match=r"accuracy is nan for the reference .* take more data"):
        metric_drops(Foreign(), MetricInputs(RIGHT, (GOOD, POOR)), BOOTSTRAP)


def test_a_metric_without_a_single_number_is_refused(monkeypatch):
    monkeypatch.setattr(Foreign, "_compute", lambda self, predictions, references: {"all": [1, 2]})
    with pytest.raises(EvaluationError, match="gives no single number"):
        metric_drops(Foreign(), MetricInputs(RIGHT, (GOOD, POOR)), BOOTSTRAP)


def test_answers_that_a_metric_does_not_take_are_refused():
    with pytest.raises(EvaluationError, match=r"does not take the answers of this task, such as 'a' for 'b'"):
        metric_drops(Foreign(), MetricInputs(["b"], (["a"], ["b"])), BOOTSTRAP)
