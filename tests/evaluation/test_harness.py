"""Tasks of lm-eval, from YAML and data on this machine."""

import json
import random
import sys

import pytest
import torch

import hf_quant
from hf_quant.errors import EvaluationError, MissingDependency
from tests.evaluation.tiny import quantized_model, sentence, task_model, tiny_tokenizer

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

CHOICES = """\
task: my_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
PAGES = """\
task: my_pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/pages.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def tokenizer():
    found = tiny_tokenizer()
    found.bos_token, found.eos_token = "[CLS]", "[SEP]"
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks and their data."""
    root, chance = tmp_path_factory.mktemp("tasks"), random.Random(0)
    choices = [
        {"question": sentence(chance), "choices": [sentence(chance, 1, 3) for _ in range(3)], "answer": index % 3}
        for index in range(24)
    ]
    pages = [{"page": sentence(chance, 10, 30)} for _ in range(12)]
    for name, rows in (("choices", choices), ("pages", pages)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "my_choices.yaml").write_text(CHOICES.format(folder=root))
    (root / "my_pages.yaml").write_text(PAGES.format(folder=root))
    return root


@pytest.fixture
def evaluated(folder, tokenizer):
    def evaluate(name, quantized=None, **options):
        options = {"tokenizer": tokenizer, "resamples": 100, "batch_size": 4, **options}
        quantized = quantized_model("causal-lm") if quantized is None else quantized
        return hf_quant.evaluate_drop(task_model("causal-lm"), quantized, f"lm-eval:{name}", folder, **options)

    return evaluate


def log_likelihood(model, tokenizer, context, text):
    """Of `text` after `context`, as the harness cuts them: nothing special is added to either."""
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    after = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(before) + place - 1, token]) for place, token in enumerate(after))


def test_choices_are_those_that_are_likeliest(evaluated, folder, tokenizer):
    report = evaluated("my_choices")
    rows = [json.loads(line) for line in (folder / "choices.jsonl").read_text().splitlines()]
    for which, model in (("reference", task_model("causal-lm")), ("quantized", quantized_model("causal-lm"))):
        right = 0
        for row in rows:
            scores = [log_likelihood(model, tokenizer, row["question"], choice) for choice in row["choices"]]
            right += scores.index(max(scores)) == row["answer"]
        assert getattr(report.metric("acc"), which) == pytest.approx(right / len(rows), abs=1 / len(rows))
    assert report.metric("acc").is_fraction and report.examples == report.agreement.compared == 24
    found = report.agreement
    assert found.top1_agreement is not None and found.kl_mean is None
    assert report.metric("acc").drop == pytest.approx((found.flips_to_wrong - found.flips_to_right) / 24)


def test_perplexities_come_with_intervals(evaluated):
    report = evaluated("my_pages")
    assert [metric.name for metric in report.metrics] == ["word_perplexity", "bits_per_byte"]
    for metric in report.metrics:
        assert not metric.higher_is_better and metric.low < metric.drop < metric.high
    assert report.worst and report.worst[0].harm > 0 and report.harm == "what is lost of word_perplexity"
    assert hf_quant.DropReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_model_against_itself_loses_nothing(evaluated):
    for name in ("my_choices", "my_pages"):
        report = evaluated(name, task_model("causal-lm"))
        assert {metric.drop for metric in report.metrics} == {0.0} and report.worst == ()


def test_options_reach_the_task(evaluated):
    report = evaluated("my_choices", max_examples=5, num_fewshot=1, metrics="acc")
    assert report.examples == 5
    assert report.options["num_fewshot"] == 1 and report.options["limit"] == 5


def test_arguments_reach_the_model_class(evaluated):
    plain, begun = (evaluated("my_pages", model_args=each) for each in ({}, {"prefix_token_id": 7}))
    assert plain.options.get("model_args") is None and begun.options["model_args"] == '{"prefix_token_id": 7}'
    assert begun.metric("word_perplexity").reference != plain.metric("word_perplexity").reference


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my_choices", {"model_args": {"add_bos": True}}, "did you mean 'add_bos_token'"),
        ("my_choices", {"model_args": {"pretrained": "x"}}, "no argument to hand on"),
        ("my_choices", {"model_args": "add_bos_token=true"}, "a mapping of names to values"),
        ("my_choices", {"metrics": "accuracy"}, "has no metric 'accuracy'"),
        ("my_choices", {"per_layer": True}, "leave them out"),
        ("my_choices", {"split": "test"}, "leave them out"),
        ("my_choices", {"text_column": "text"}, "has no option 'text_column'"),
    ],
)
def test_what_does_not_fit_is_refused(evaluated, name, options, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated(name, **options)


@pytest.mark.slow  # looks through all tasks of the package
def test_a_task_that_is_nowhere_is_refused_with_those_near_to_it(evaluated):
    with pytest.raises(EvaluationError, match=r"no task 'my_choice' in lm-eval, nor in .*near to it: my_choices"):
        evaluated("my_choice")


def test_a_file_is_no_folder(folder):
    with pytest.raises(EvaluationError, match="a folder with tasks in YAML"):
        hf_quant.evaluate_drop("a", "b", "lm-eval:my_choices", folder / "choices.jsonl")


def test_without_the_package_the_extra_is_named(evaluated, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"pip install \"hf-quant\[lm-eval\]\""):
        evaluated("my_choices")
