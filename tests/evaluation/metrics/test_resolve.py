"""Names of metrics lead to objects, with or without a network."""

import sys

import datasets
import evaluate
import pytest

from hf_quant.errors import EvaluationError, MetricUnavailable
from hf_quant.evaluation import METRICS
from hf_quant.evaluation.metrics.resolve import higher_is_better, is_fraction, metric_module, needs, only_numbers

SCRIPT = """
import datasets
import evaluate
{imported}


class Wer(evaluate.Metric):
    def _info(self):
        kinds = datasets.Features({{"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}})
        return evaluate.MetricInfo(description="d", citation="", inputs_description="", features=kinds)

    def _compute(self, predictions, references):
        return {{"wer": sum(map(int.__ne__, predictions, references)) / len(references)}}
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a metric's script, as a user may have one; gives its folder."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)  # of another folder, where a test before this one had it from

    def write(name, imported=""):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(SCRIPT.format(imported=imported))
        return str(folder)

    return write


@pytest.mark.parametrize("name", list(METRICS))
def test_metrics_of_this_package_are_evaluation_modules(name):
    assert isinstance(metric_module(name), evaluate.EvaluationModule)


def test_a_metric_in_a_folder_is_loaded(script):
    metric = metric_module(script("wer"))
    assert metric.compute(predictions=[1, 2], references=[1, 3]) == {"wer": 0.5}
    assert not higher_is_better(metric, "wer") and needs(metric) == "answers"


def test_a_metric_that_needs_a_package_names_it(script):
    folder = script("needy", "import a_package_that_is_not_there")
    with pytest.raises(MetricUnavailable, match=r"(?s)needs a package .*a_package_that_is_not_there"):
        metric_module(folder)


def test_a_metric_that_is_nowhere_is_refused_with_those_that_need_no_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetricUnavailable, match=r"did you mean 'matthews'\?.*needs the network"):
        metric_module("mathews")


def test_what_is_no_metric_is_refused():
    with pytest.raises(EvaluationError, match=r"a name or an evaluate.EvaluationModule, not 3"):
        metric_module(3)


class Foreign(evaluate.Metric):
    def _info(self):
        tags = datasets.Sequence(datasets.Value("string"))
        kinds = datasets.Features({"predictions": tags, "references": tags})
        return evaluate.MetricInfo(description="d", citation="", inputs_description="", features=kinds)

    def _compute(self, predictions, references):
        return {"share": 1.0}


def test_a_foreign_metric_of_lists_gets_lists():
    assert needs(Foreign()) == "sequences"


def test_points_of_a_foreign_metric_are_hundredths_if_its_values_are_parts_of_1():
    metric = Foreign()
    assert higher_is_better(metric, "share") and not higher_is_better(metric, "mse")
    assert is_fraction(metric, (0.5, 0.4), True)
    assert not is_fraction(metric, (50.0, 40.0), True) and not is_fraction(metric, (0.5, 0.4), False)


def test_only_single_numbers_of_a_metric_are_kept():
    assert only_numbers({"a": 1, "b": [1, 2], "c": "x", "d": None, "e": "2.5"}) == {"a": 1.0, "e": 2.5}
    assert only_numbers(None) == {}
