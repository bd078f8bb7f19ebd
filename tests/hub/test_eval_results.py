"""Figures as metadata: what the Hub shows is what was measured, and says how it compares."""

import pytest
from huggingface_hub import EvalResult, ModelCardData

from hf_quant.hub.eval_results import eval_results, is_ours
from tests.reporting.samples import drop_report


def test_every_metric_of_the_quantized_model_is_a_result_with_its_interval():
    drop = drop_report()
    results = eval_results([drop])
    assert [result.metric_value for result in results] == [metric.quantized for metric in drop.metrics]
    accuracy = results[0]
    assert (accuracy.task_type, accuracy.metric_type) == ("text-classification", "accuracy")
    assert (accuracy.dataset_name, accuracy.dataset_split) == ("reviews.csv", "test")
    assert accuracy.dataset_args == {"sha256": drop.data.fingerprint, "examples": 2125}
    metric = drop.metrics[0]
    figures = {"reference": metric.reference, "loss": metric.drop, "loss_low": metric.low, "loss_high": metric.high}
    assert figures.items() <= accuracy.metric_args.items() and accuracy.metric_args["confidence"] == 0.95


@pytest.mark.parametrize(
    ("task", "name"),
    [("masked-lm", "fill-mask"), ("causal-lm", "text-generation"), ("sentence-similarity", "sentence-similarity")],
)
def test_tasks_have_the_names_of_the_hub(task, name):
    assert {result.task_type for result in eval_results([drop_report(task=task)])} == {name}


def test_results_are_known_again_after_they_were_metadata():
    others = EvalResult("text-classification", "glue", "GLUE", "accuracy", 0.9, metric_args={"seed": 1})
    written = ModelCardData(model_name="m", eval_results=[*eval_results([drop_report()]), others]).to_dict()
    read = ModelCardData(**written).eval_results
    assert [is_ours(result) for result in read] == [True, True, False]


def test_an_odd_name_of_the_data_is_a_type_that_the_hub_takes():
    result = eval_results([drop_report()])[0]
    assert result.dataset_type == "reviews.csv"
