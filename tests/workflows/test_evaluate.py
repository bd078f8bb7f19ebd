"""`hf_quant.evaluate_drop`: six tasks end to end, and what is refused with the fix named."""

import copy
import sys

import datasets
import evaluate
import pytest
import torch

import hf_quant
from hf_quant.errors import ConfigError, EvaluationError, MetricUnavailable, MissingDependency, UnknownName
from hf_quant.evaluation import METRICS
from hf_quant.evaluation.metrics.accuracy import Accuracy
from tests.evaluation.tiny import (
    CLASSES,
    TASKS,
    WORDS,
    evaluated,
    quantized_model,
    task_model,
    task_rows,
    tiny_tokenizer,
)
from tests.integration.tiny import tiny_model


@pytest.mark.parametrize("task", TASKS)
def test_every_task_compares_two_models(task):
    report = evaluated(task, per_layer=3)
    assert (report.task, report.data.examples) == (task, 40)
    for metric in report.metrics:
        worse = metric.reference - metric.quantized
        assert metric.drop == pytest.approx(worse if metric.higher_is_better else -worse)
        assert metric.low <= metric.drop <= metric.high
    assert report.worst and all(one.harm > 0 and one.text for one in report.worst)
    assert {layer.relative_error for layer in report.layers} != {0.0} and report.first_growth
    assert report.environment["torch"] == torch.__version__
    assert hf_quant.DropReport.from_dict(report.to_dict()) == report


@pytest.mark.parametrize("task", TASKS)
def test_a_model_against_itself_loses_nothing(task):
    report = evaluated(task, quantized=task_model(task), per_layer=3)
    for metric in report.metrics:
        assert metric.drop == 0
        # That no answer has flipped here does not say that none would.
        is_share = metric.name == "exact_match" or (metric.name, task) == ("accuracy", "text-classification")
        # Sums of the same numbers in another order may differ in their last digit.
        assert metric.low == pytest.approx(-metric.high, abs=1e-12) and (metric.high > 1e-12) is is_share
    if task != "sentence-similarity":
        found = report.agreement
        assert (found.kl_mean, found.kl_high, found.top1_agreement) == (0, 0, 1)
        assert (found.flips_to_wrong, found.flips_to_right, found.mcnemar_p) == (0, 0, 1)
    assert report.worst == () and report.first_growth is None
    assert {layer.relative_error for layer in report.layers} == {0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A classifier and the same in int4, each beside its tokenizer."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, model in (
        ("float", task_model("text-classification")),
        ("int4", quantized_model("text-classification")),
    ):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return root


def test_checkpoints_give_what_models_in_memory_give(folders):
    given = evaluated("text-classification")
    loaded = evaluated("text-classification", folders / "float", str(folders / "int4"), tokenizer=None)
    assert loaded.metrics == given.metrics and loaded.agreement == given.agreement
    assert (loaded.reference, loaded.quantized) == (str(folders / "float"), str(folders / "int4"))
    assert given.quantized == "BertForSequenceClassification int4"


def test_a_model_from_a_directory_brings_the_tokenizer_beside_it(folders):
    model = type(task_model("text-classification")).from_pretrained(folders / "float")
    report = evaluated("text-classification", model, tokenizer=None)
    assert report.metrics == evaluated("text-classification").metrics


def test_a_metric_that_a_user_passes_is_taken_and_named_ones_too():
    class Share(evaluate.Metric):
        def _info(self):
            kinds = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
            return evaluate.MetricInfo(description="d", citation="", inputs_description="", features=kinds)

        def _compute(self, predictions, references):
            return {"share": sum(map(int.__eq__, predictions, references)) / len(references)}

    report = evaluated("text-classification", metrics=[Share(), "accuracy", "matthews"])
    assert [metric.name for metric in report.metrics] == ["share", "accuracy", "matthews"]
    share, accuracy, _ = report.metrics
    assert (share.reference, share.quantized) == (accuracy.reference, accuracy.quantized)
    one = evaluated("text-classification", metrics=Accuracy())
    assert one.metrics == evaluated("text-classification", metrics="accuracy").metrics == (accuracy,)


def test_the_same_seed_gives_the_same_report_and_another_other_intervals():
    first, second, other = (evaluated("text-classification", seed=seed) for seed in (1, 1, 2))
    assert first.metrics == second.metrics
    assert first.metrics[2].drop == other.metrics[2].drop and first.metrics[2].low != other.metrics[2].low


def test_intervals_widen_with_confidence():
    narrow, wide = (evaluated("text-classification", confidence=part).metrics[2] for part in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_fewer_examples_are_drawn_from_everywhere():
    rows = [{"text": text, "label": name} for name in CLASSES.values() for text in [" ".join(WORDS[:5])] * 20]
    report = evaluated("text-classification", rows=rows, max_examples=12)
    assert report.data.examples == report.examples == 12
    # Sorted by label: the first twelve would hold one class only, and all or none of them would be right.
    assert 0 < report.metric("accuracy").reference < 1


def test_the_worst_examples_are_those_that_lose_most():
    report = evaluated("text-classification", worst=100)
    harms = [one.harm for one in report.worst]
    assert harms == sorted(harms, reverse=True)
    assert evaluated("text-classification", worst=0).worst == ()
    worst = report.worst[0]
    assert worst.text == task_rows("text-classification")[worst.index]["text"]


# What is refused.


def renamed(names):
    model = copy.deepcopy(task_model("text-classification"))
    model.config.id2label = dict(enumerate(names))
    return model


@pytest.mark.parametrize("names", [("good", "fair", "bad"), ("LABEL_0", "LABEL_1", "LABEL_2"), ("bad", "fair")])
def test_label_maps_that_differ_are_refused(names):
    with pytest.raises(EvaluationError, match=r"number their labels differently.*id2label in both config.json"):
        evaluated("text-classification", quantized=renamed(names))


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("text-classification", {"words": "w1", "label": 0}, "text_column=..., one of words, label"),
        ("text-classification", {"text": "w1"}, "label_column=..."),
        ("token-classification", {"tokens": ["w1"]}, "label_column=..."),
        ("question-answering", {"question": "w1", "context": "w2"}, "label_column=..."),
        ("question-answering", {"context": "w2", "answers": "w2"}, "question_column=..."),
        ("masked-lm", {"content_": "w1"}, "text_column=..."),
        ("causal-lm", {"content_": "w1"}, "text_column=..."),
        ("sentence-similarity", {"sentence1": "w1", "score": 1.0}, "pair_column=..."),
        ("sentence-similarity", {"sentence1": "w1", "sentence2": "w2"}, "label_column=..."),
    ],
)
def test_missing_columns_are_refused_with_those_there_are(task, row, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated(task, rows=[row])


def test_a_column_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(EvaluationError, match="did you mean 'label'"):
        evaluated("text-classification", label_column="lable")


@pytest.mark.parametrize("rows", [[], datasets.DatasetDict(test=datasets.Dataset.from_list([]))])
def test_empty_data_is_refused(rows):
    with pytest.raises(EvaluationError, match="is empty: take another split or file"):
        evaluated("text-classification", rows=rows)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "masked-lm", "sentence-similarity"])
def test_a_text_that_is_longer_than_the_context_is_refused_and_cut_on_request(task):
    words = WORDS * 2
    row = {
        "text-classification": {"text": " ".join(words), "label": "bad"},
        "token-classification": {"tokens": words, "ner_tags": ["O"] * len(words)},
        "masked-lm": {"text": " ".join(words)},
        "sentence-similarity": {"sentence1": " ".join(words), "sentence2": "w1", "score": 1.0},
    }[task]
    rows = [*task_rows(task), {key: row[key] for key in task_rows(task)[0] if key in row}]
    rows = [{key: value for key, value in each.items() if key in row} for each in rows]
    with pytest.raises(EvaluationError, match=r"has 248 tokens, the model reads 128.*max_length=128"):
        evaluated(task, rows=rows)
    assert evaluated(task, rows=rows, max_length=128).examples == 41
    with pytest.raises(EvaluationError, match=r"max_length=999 is more than the 128 tokens"):
        evaluated(task, rows=rows, max_length=999)


def test_a_metric_that_needs_the_network_is_refused_before_anything_runs(monkeypatch):
    def never(*args, **options):
        raise AssertionError("the models have run")

    model = copy.deepcopy(task_model("text-classification"))
    monkeypatch.setattr(model, "forward", never)
    with pytest.raises(
        MetricUnavailable, match=r"no metric of this package 'accuracys'; did you mean 'accuracy'\? .*needs the network"
    ):
        evaluated("text-classification", model, metrics="accuracys")


def test_other_tokenizers_are_refused(folders, tmp_path):
    task_model("text-classification").save_pretrained(tmp_path)
    tiny_tokenizer(WORDS[::-1]).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match=r"different tokenizers: 'w\d+' is token \d+ .* pass tokenizer="):
        evaluated("text-classification", tmp_path, folders / "int4", tokenizer=None)
    assert evaluated("text-classification", tmp_path, folders / "int4", tokenizer=tiny_tokenizer()).examples == 40


def test_other_vocabularies_are_refused():
    other = tiny_model("bert", type(task_model("masked-lm")), vocab_size=96)
    with pytest.raises(EvaluationError, match=r"knows 96 tokens, the quantized model 128"):
        evaluated("masked-lm", other)


def test_a_tokenizer_with_more_tokens_than_the_models_is_refused():
    model = tiny_model("bert", type(task_model("masked-lm")), vocab_size=96)
    with pytest.raises(EvaluationError, match=r"gives token 1\d\d for example 0, the models know 96: pass the models'"):
        evaluated("masked-lm", model, model, rows=[{"text": " ".join(WORDS[100:110])}])


def test_models_without_a_tokenizer_are_refused():
    with pytest.raises(EvaluationError, match=r"no tokenizer beside the models: pass tokenizer="):
        evaluated("masked-lm", tokenizer=None)


@pytest.mark.parametrize("task", TASKS)
def test_nan_logits_are_refused(task):
    spoiled = copy.deepcopy(task_model(task))
    with torch.no_grad():
        next(spoiled.parameters())[7:].fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"the quantized model gives NaN .*load it in float32"):
        evaluated(task, quantized=spoiled)
    with pytest.raises(EvaluationError, match=r"the reference gives NaN"):
        evaluated(task, reference=spoiled)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("text-classification", "masked-lm", r"\[texts, classes\] of 2 classes, the model gives \(16, \d+, 128\)"),
        ("token-classification", "masked-lm", "load a model with the head for this task"),
        ("question-answering", "masked-lm", "start_logits"),
        ("masked-lm", "sentence-similarity", "gives none"),
        ("causal-lm", "masked-lm", "sees the tokens that it is asked for"),
    ],
)
def test_a_model_with_the_head_of_another_task_is_refused(task, model, message):
    model = task_model(model)
    rows = task_rows(task)
    if task == "text-classification":
        rows = [{**row, "label": 0} for row in rows]
    if task == "token-classification":
        rows = [{**row, "ner_tags": [0] * len(row["tokens"])} for row in rows]
    with pytest.raises(EvaluationError, match=message):
        evaluated(task, model, model, rows=rows)


def test_what_is_no_model_of_text_is_refused():
    with pytest.raises(EvaluationError, match="has no config"):
        evaluated("masked-lm", torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_colum": "text"}, "did you mean 'text_column'"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"max_examples": 0}, "number of examples must be a positive integer"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"resamples": 0}, "resamples is a whole number from 1 on"),
        ({"worst": -1}, "worst is a whole number"),
        ({"per_layer": -1}, "per_layer is a whole number"),
        ({"metrics": [3]}, "a name or an evaluate.EvaluationModule"),
        ({"metrics": "entity-f1"}, "says nothing of"),
        ({"labels": {"bad": "worse"}}, "which is no class of the models"),
        ({"labels": {"bad": "bad"}}, "which labels=... .*has not"),
        ({"split": "test"}, "has no splits"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated("text-classification", **options)


def test_a_task_has_to_be_known_and_to_have_data():
    with pytest.raises(UnknownName, match="did you mean 'causal-lm'"):
        hf_quant.evaluate_drop("a", "b", "causal_lm", ["text"])
    with pytest.raises(EvaluationError, match=r"pass dataset="):
        hf_quant.evaluate_drop("a", "b", "causal-lm")


def test_a_directory_that_is_not_there_is_called_one(tmp_path):
    with pytest.raises(ConfigError, match="there is no directory"):
        hf_quant.evaluate_drop(tmp_path / "nothing", "b", "causal-lm", ["some text"])


def test_without_the_optional_packages_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("hf_quant.evaluation.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(MissingDependency, match=r"pip install \"hf-quant\[evaluate\]\""):
        hf_quant.evaluate_drop("a", "b", "causal-lm", ["some text"])


def test_labels_of_the_data_are_translated_on_request():
    rows = [{**row, "label": f"it is {row['label']}"} for row in task_rows("text-classification")]
    labels = {f"it is {name}": name for name in CLASSES.values()}
    assert (
        evaluated("text-classification", rows=rows, labels=labels).metrics == evaluated("text-classification").metrics
    )


def test_a_quantized_reference_and_a_float_model_are_refused_as_exchanged():
    with pytest.raises(EvaluationError, match="exchange the two"):
        evaluated("masked-lm", quantized_model("masked-lm"), task_model("masked-lm"))


def test_a_report_on_two_models_of_one_kind_says_so():
    float_model, quantized = task_model("masked-lm"), quantized_model("masked-lm")
    assert "Neither model is quantized" in evaluated("masked-lm", float_model, float_model).notes[0]
    assert "The reference is quantized, too" in evaluated("masked-lm", quantized, quantized).notes[0]
    assert not any("quantized" in note for note in evaluated("masked-lm", float_model, quantized).notes)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("masked-lm", "spearman"),
        ("sentence-similarity", "accuracy"),
        ("text-classification", "pearson"),
        ("text-classification", "perplexity"),
        ("text-classification", "squad"),
        ("causal-lm", "squad"),
        ("question-answering", "accuracy"),
    ],
)
def test_metrics_that_say_nothing_of_a_task_are_refused(task, metric):
    with pytest.raises(EvaluationError, match=f"the metric {metric} says nothing of {task}"):
        evaluated(task, metrics=metric)


def test_a_metric_given_as_an_object_that_cannot_read_the_answers_is_refused():
    with pytest.raises(EvaluationError, match="does not take the answers"):
        evaluated("text-classification", metrics=METRICS["squad"]())


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_nothing_correlates_with_scores_that_are_all_the_same(metric):
    rows = [{**row, "score": 0.5} for row in task_rows("sentence-similarity")]
    with pytest.raises(EvaluationError, match="not defined where all scores are the same"):
        evaluated("sentence-similarity", rows=rows, metrics=metric)


@pytest.mark.parametrize("device", ["cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device):
    with pytest.raises(ConfigError, match="no device"):
        hf_quant.evaluate_drop("./nowhere", "./nowhere", "masked-lm", ["w1"], device=device)
