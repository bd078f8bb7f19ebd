"""Outputs that are not what a task is about are refused."""

from types import SimpleNamespace

import pytest
import torch

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.outputs import logits_of, require_finite, vocabulary_logits

LOGITS = SimpleNamespace(logits=torch.zeros(2, 3))


def test_logits_of_the_right_shape_are_given_back():
    assert logits_of(LOGITS, "[texts, classes]") is LOGITS.logits
    assert logits_of(LOGITS, "[texts, classes]", 3) is LOGITS.logits


@pytest.mark.parametrize(
    ("outputs", "shape", "classes", "message"),
    [
        (SimpleNamespace(), "[texts, classes]", None, "the model gives none: load a model with the head"),
        (LOGITS, "[texts, tokens, tags]", None, r"needs logits \[texts, tokens, tags\], the model gives \(2, 3\)"),
        (LOGITS, "[texts, classes]", 4, r"\[texts, classes\] of 4 classes, the model gives \(2, 3\)"),
    ],
)
def test_other_logits_are_refused(outputs, shape, classes, message):
    with pytest.raises(EvaluationError, match=message):
        logits_of(outputs, shape, classes)


def test_a_language_model_gives_a_score_for_each_token():
    outputs = SimpleNamespace(logits=torch.zeros(1, 2, 10))
    assert vocabulary_logits(outputs, 10) is outputs.logits
    with pytest.raises(EvaluationError, match="gives 10 scores for each token, and its vocabulary has 11"):
        vocabulary_logits(outputs, 11)


def test_the_model_that_gives_nan_is_named():
    require_finite((True, True), "text 3")
    with pytest.raises(EvaluationError, match=r"^the reference gives NaN or infinite logits for text 3: .*float32"):
        require_finite((False, True), "text 3")
    with pytest.raises(EvaluationError, match=r"^the quantized model gives NaN"):
        require_finite((True, False), "text 3")
