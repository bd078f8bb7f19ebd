"""Classes of texts, as the models say them one by one."""

import itertools

import datasets
import numpy as np
import pytest
import sklearn.metrics
import torch
from transformers import LlamaForSequenceClassification

from hf_quant.errors import EvaluationError
from tests.evaluation.tiny import CLASSES, evaluated, quantized_model, task_model, task_rows, tiny_tokenizer
from tests.integration.tiny import tiny_model

ROWS = task_rows("text-classification")
NUMBERS = {name: number for number, name in CLASSES.items()}


def direct(model, *texts):
    """Logits of each text, run alone."""
    with torch.inference_mode():
        return torch.cat(
            [model(**tiny_tokenizer()(*each, return_tensors="pt")).logits for each in zip(*texts, strict=True)]
        ).double()


TEXTS = [row["text"] for row in ROWS]
RIGHT = np.array([NUMBERS[row["label"]] for row in ROWS])


@pytest.mark.parametrize("which", ["reference", "quantized"])
def test_figures_are_those_of_scikit_learn_on_predictions_one_by_one(which):
    report = evaluated("text-classification", metrics=["accuracy", "f1-macro", "matthews", "log-loss"])
    models = {"reference": task_model, "quantized": quantized_model}
    logits = direct(models[which]("text-classification"), TEXTS)
    said = logits.argmax(-1).numpy()
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(RIGHT, said),
        "f1": sklearn.metrics.f1_score(RIGHT, said, average="macro"),
        "matthews": sklearn.metrics.matthews_corrcoef(RIGHT, said),
        "log_loss": sklearn.metrics.log_loss(RIGHT, logits.softmax(-1).numpy(), labels=[0, 1, 2]),
    }
    assert {metric.name: getattr(metric, which) for metric in report.metrics} == pytest.approx(expected, rel=1e-3)


def test_flips_and_divergence_are_those_of_predictions_one_by_one():
    report = evaluated("text-classification")
    first, second = (direct(each("text-classification"), TEXTS) for each in (task_model, quantized_model))
    kl = (first.softmax(-1) * (first.log_softmax(-1) - second.log_softmax(-1))).sum(-1).mean()
    right = [(each.argmax(-1).numpy() == RIGHT) for each in (first, second)]
    found = report.agreement
    assert found.kl_mean == pytest.approx(float(kl), rel=1e-2)
    assert (found.flips_to_wrong, found.flips_to_right) == (
        (right[0] & ~right[1]).sum(),
        (right[1] & ~right[0]).sum(),
    )


def test_pairs_of_texts_are_read_together():
    rows = [
        {"premise": first["text"], "hypothesis": second["text"], "label": first["label"]}
        for first, second in itertools.pairwise(ROWS)
    ]
    logits = direct(task_model("text-classification"), TEXTS[:-1], TEXTS[1:])
    expected = (logits.argmax(-1).numpy() == RIGHT[:-1]).mean()
    assert evaluated("text-classification", rows=rows).metric("accuracy").reference == expected
    named = [{"a": row["premise"], "b": row["hypothesis"], "label": row["label"]} for row in rows]
    report = evaluated("text-classification", rows=named, text_column="a", pair_column="b")
    assert report.metric("accuracy").reference == expected


def test_a_dataset_that_numbers_its_classes_otherwise_is_understood():
    names = ["good", "bad", "fair"]
    rows = datasets.Dataset.from_list([{**row, "label": names.index(row["label"])} for row in ROWS])
    rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    assert evaluated("text-classification", rows=rows).metrics == evaluated("text-classification").metrics


def test_a_model_with_one_score_is_judged_by_correlation():
    model = tiny_model("bert", type(task_model("text-classification")), num_labels=1)
    scores = direct(model, TEXTS)[:, 0].tolist()
    rows = [
        {"text": text, "label": score + index % 3}
        for index, (text, score) in enumerate(zip(TEXTS, scores, strict=True))
    ]
    report = evaluated("text-classification", model, model, rows=rows)
    expected = np.corrcoef(scores, [row["label"] for row in rows])[0, 1]
    assert [metric.name for metric in report.metrics] == ["pearson", "spearman"]
    assert report.metric("pearson").reference == pytest.approx(expected, rel=1e-4)
    with pytest.raises(EvaluationError, match="pass numbers to compare it with"):
        evaluated("text-classification", model, model, rows=ROWS)


def test_a_decoder_without_a_padding_token_gets_one_text_at_a_time():
    changes = {"id2label": CLASSES, "label2id": NUMBERS, "pad_token_id": None}
    model = tiny_model("llama", LlamaForSequenceClassification, **changes)
    report = evaluated("text-classification", model, model)
    expected = (direct(model, TEXTS).argmax(-1).numpy() == RIGHT).mean()
    assert report.metric("accuracy").reference == expected
