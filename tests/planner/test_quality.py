"""What plans are judged by: the model's own loss, and the share of wrong answers."""

import pytest
import torch
from transformers import BertForSequenceClassification, BertForTokenClassification

from hf_quant.errors import CalibrationError, UnknownName
from hf_quant.planner.quality import QUALITIES, error_rate, mean_loss
from tests.integration.tiny import VOCABULARY, tiny_model


def tokens(rows=6, length=9, seed=0):
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_the_error_rate_of_a_classifier_is_the_share_of_wrong_classes():
    model = tiny_model("bert", BertForSequenceClassification, num_labels=3)
    ids = tokens()
    labels = model(input_ids=ids).logits.argmax(-1)
    labels[:2] = (labels[:2] + 1) % 3
    assert error_rate(model, [{"input_ids": ids, "labels": labels}]) == pytest.approx(2 / 6)


@torch.inference_mode()
def test_tokens_without_a_label_do_not_count():
    model = tiny_model("bert", BertForTokenClassification, num_labels=4)
    ids = tokens()
    labels = model(input_ids=ids).logits.argmax(-1)
    labels[:, 0] = -100
    labels[0, 1] = (labels[0, 1] + 1) % 4
    assert error_rate(model, [{"input_ids": ids, "labels": labels}]) == pytest.approx(1 / (6 * 8))


@torch.inference_mode()
def test_the_error_rate_of_a_model_that_writes_is_of_next_tokens():
    model = tiny_model("llama")
    ids = tokens()
    right = (model(input_ids=ids).logits[:, :-1].argmax(-1) == ids[:, 1:]).float().mean()
    assert error_rate(model, [{"input_ids": ids}]) == pytest.approx(1 - float(right))


@torch.inference_mode()
def test_the_mean_loss_is_that_of_the_model():
    model = tiny_model("llama")
    rows = tokens()
    expected = sum(float(model(input_ids=row[None], labels=row[None]).loss) for row in rows) / len(rows)
    assert mean_loss(model, [{"input_ids": rows}]) == pytest.approx(expected, rel=1e-6)
    assert not model.training


@pytest.mark.parametrize("quality", [mean_loss, error_rate])
def test_labels_that_are_missing_are_asked_for(quality):
    model = tiny_model("bert", BertForSequenceClassification)
    with pytest.raises(CalibrationError, match="labels"):
        quality(model, [{"input_ids": tokens()}])


def test_scores_have_no_accuracy():
    model = tiny_model("bert", BertForSequenceClassification, num_labels=1)
    with pytest.raises(CalibrationError, match="judge by loss"):
        error_rate(model, [{"input_ids": tokens(), "labels": torch.rand(6)}])


def test_answers_that_all_lack_a_label_are_no_data():
    model = tiny_model("bert", BertForTokenClassification, num_labels=4)
    with pytest.raises(CalibrationError, match="no answer has a label"):
        error_rate(model, [{"input_ids": tokens(), "labels": torch.full((6, 9), -100)}])


def test_unknown_metrics_are_told_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        QUALITIES["acuracy"]
