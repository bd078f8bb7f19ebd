"""From results to a report."""

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.drop import named_drops
from hf_quant.evaluation.metric_drops import MetricInputs
from hf_quant.evaluation.metrics.accuracy import Accuracy
from hf_quant.evaluation.metrics.f1 import MacroF1, MicroF1
from hf_quant.evaluation.statistics import Bootstrap
from tests.evaluation.tiny import WORDS, evaluated

INPUTS = MetricInputs([0, 1, 2], ([0, 1, 1], [0, 0, 1]))


def test_a_name_that_two_metrics_have_is_given_once_by_the_first():
    found = named_drops([(metric, "", INPUTS) for metric in (MicroF1(), Accuracy(), MacroF1())], Bootstrap(10))
    assert [drop.name for drop in found] == ["f1", "accuracy"]
    assert found[0].reference == pytest.approx(2 / 3)  # of all classes together


def test_there_has_to_be_a_metric():
    with pytest.raises(EvaluationError, match="give at least one"):
        named_drops([], Bootstrap(10))


def test_long_texts_are_cut_in_the_report():
    rows = [{"text": " ".join(WORDS[:100]), "label": name} for name in ("bad", "fair", "good")]
    worst = evaluated("text-classification", rows=rows).worst
    assert worst and all(len(one.text) == 300 and one.text.endswith("…") for one in worst)


def test_layers_are_compared_on_as_many_examples_as_asked_for():
    assert evaluated("text-classification").layers == ()
    few, many = (evaluated("text-classification", per_layer=count).layers for count in (1, 40))
    assert [layer.name for layer in few] == [layer.name for layer in many]
    assert [layer.relative_error for layer in few] != [layer.relative_error for layer in many]
