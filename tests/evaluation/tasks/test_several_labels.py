"""Several labels or scores for a text, each held against predictions one by one."""

import datasets
import numpy as np
import pytest
import sklearn.metrics
import torch
from transformers import BertForSequenceClassification

from hf_quant.errors import EvaluationError
from tests.evaluation.tiny import CLASSES, evaluated, task_rows, tiny_tokenizer
from tests.integration.tiny import tiny_model

TEXTS = [row["text"] for row in task_rows("text-classification")]
NAMES = list(CLASSES.values())


def made(problem, seed=0):
    named = {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}
    return tiny_model("bert", BertForSequenceClassification, seed, problem_type=problem, **named)


@pytest.fixture(scope="module")
def models():
    """Two models that do not agree."""
    return made("multi_label_classification"), made("multi_label_classification", seed=3)


def logits(model):
    with torch.inference_mode():
        return torch.cat([model(**tiny_tokenizer()(text, return_tensors="pt")).logits for text in TEXTS]).double()


def right_ones(models):
    """Labels that the first model mostly gives."""
    found = (logits(models[0]) > 0).long().numpy()
    found[::3] = 1 - found[::3]
    return found


def rows(labels):
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]


def in_form(form, right):
    """The same labels as data holds them."""
    names = [[NAMES[number] for number in np.flatnonzero(row)] for row in right]
    if form == "names":
        return rows(names)
    if form == "columns":
        return [
            {"text": text, **dict(zip(NAMES, row.tolist(), strict=True))}
            for text, row in zip(TEXTS, right, strict=True)
        ]
    if form == "numbers of names":
        order = ["good", "bad", "fair"]
        found = datasets.Dataset.from_list(rows([[order.index(name) for name in each] for each in names]))
        return found.cast_column("label", datasets.Sequence(datasets.ClassLabel(names=order)))
    return rows(right.astype({"flags": int, "floats": float, "truth": bool}[form]).tolist())


@pytest.mark.parametrize("form", ["flags", "floats", "truth", "names", "numbers of names", "columns"])
def test_figures_are_those_of_scikit_learn_on_predictions_one_by_one(models, form):
    right = right_ones(models)
    report = evaluated("text-classification", *models, rows=in_form(form, right))
    for which, model in zip(("reference", "quantized"), models, strict=True):
        scores = logits(model)
        said = (scores > 0).long().numpy()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.tensor(right).double())
        expected = {
            "f1": sklearn.metrics.f1_score(right, said, average="micro"),
            "accuracy": (right == said).mean(),
            "log_loss": float(loss),
        }
        each = sklearn.metrics.f1_score(right, said, average=None, zero_division=0)
        expected |= {f"f1 of {name}": value for name, value in zip(NAMES, each, strict=True)}
        assert {metric.name: getattr(metric, which) for metric in report.metrics} == pytest.approx(expected, rel=1e-3)


def test_flips_and_divergence_are_those_of_labels_one_by_one(models):
    right = right_ones(models)
    found = evaluated("text-classification", *models, rows=rows(right.tolist())).agreement
    first, second = (torch.distributions.Bernoulli(logits=logits(model)) for model in models)
    hits = [(logits(model) > 0).numpy() == right for model in models]
    assert (found.unit, found.compared) == ("labels", right.size)
    assert found.kl_mean == pytest.approx(float(torch.distributions.kl_divergence(first, second).mean()), rel=1e-3)
    assert (found.flips_to_wrong, found.flips_to_right) == ((hits[0] & ~hits[1]).sum(), (hits[1] & ~hits[0]).sum())


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1, "is 1, and the models give several labels .*multi_label"),
        ([1, 0], "a 0 or 1 for each of bad, fair, good"),
        ([0, 1, 2], "a 0 or 1 for each of bad, fair, good"),
        (["great"], "'great', which is no class"),
    ],
)
def test_rows_that_say_something_else_are_refused(models, label, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated("text-classification", *models, rows=rows([label] * len(TEXTS)))


def test_lists_for_a_model_of_one_class_are_refused_with_the_setting():
    model = made(None)
    with pytest.raises(EvaluationError, match="problem_type"):
        evaluated("text-classification", model, model, rows=rows([[0, 1, 0]] * len(TEXTS)))


def test_scores_are_correlated_one_by_one():
    models = made("regression"), made("regression", seed=3)
    right = np.random.default_rng(0).normal(size=(len(TEXTS), 3)) + logits(models[0]).numpy()
    report = evaluated("text-classification", *models, rows=rows(right.tolist()), metrics=["pearson"])
    for number, name in enumerate(NAMES):
        drop = report.metric(f"pearson of {name}")
        for found, model in zip((drop.reference, drop.quantized), models, strict=True):
            expected = np.corrcoef(right[:, number], logits(model).numpy()[:, number])[0, 1]
            assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("label", "message"),
    [([0.5, 1.0], "3 scores, as a regression"), ([0.1, 0.5, 0.9], "bad, one of several")],
)
def test_scores_that_cannot_be_correlated_are_refused(label, message):
    model = made("regression")
    with pytest.raises(EvaluationError, match=message):
        evaluated("text-classification", model, model, rows=rows([label] * len(TEXTS)))
