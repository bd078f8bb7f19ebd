"""Perplexity against Transformers' own losses, and that of the task against both."""

import math

import pytest
import torch

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.perplexity import SEPARATOR, perplexity
from tests.evaluation.tiny import evaluated, quantized_model, task_model, task_rows, tiny_tokenizer

TEXTS = [row["text"] for row in task_rows("causal-lm")]


def direct(model, length, stride):
    """As Transformers' guide to perplexity does it, with the model's own loss."""
    ids = torch.tensor([tiny_tokenizer()(SEPARATOR.join(TEXTS), add_special_tokens=False)["input_ids"]])
    losses, counts, reached = [], [], 0
    for start in range(0, ids.shape[1], stride):
        end = min(start + length, ids.shape[1])
        labels = ids[:, start:end].clone()
        labels[:, : max(reached - start, 0)] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                losses.append(float(model(ids[:, start:end], labels=labels).loss) * count)
            counts.append(count)
        reached = end
        if end == ids.shape[1]:
            break
    return math.exp(sum(losses) / sum(counts))


@pytest.mark.parametrize(("length", "stride"), [(64, 64), (64, 32), (128, 17), (16, 3)])
def test_perplexity_is_that_of_a_direct_computation(length, stride):
    model = task_model("causal-lm")
    expected = direct(model, length, stride)
    assert perplexity(model, tiny_tokenizer(), TEXTS, length, stride) == pytest.approx(expected, rel=1e-5)
    report = evaluated("causal-lm", max_length=length, stride=stride, batch_size=3)
    assert report.metric("perplexity").reference == pytest.approx(expected, rel=1e-5)
    quantized = direct(quantized_model("causal-lm"), length, stride)
    # A quantized model rounds in groups of rows, so that batches may differ in the last bits of an input's code.
    assert report.metric("perplexity").quantized == pytest.approx(quantized, rel=1e-4)


def test_too_little_text_is_refused():
    with pytest.raises(EvaluationError, match="at least two tokens, got 1"):
        perplexity(task_model("causal-lm"), tiny_tokenizer(), ["w1"])
