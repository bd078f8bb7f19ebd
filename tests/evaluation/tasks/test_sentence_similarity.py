"""Cosines of sentence embeddings."""

import numpy as np
import pytest
import scipy.stats
import torch

from hf_quant.errors import EvaluationError
from tests.evaluation.tiny import evaluated, quantized_model, task_model, task_rows, tiny_tokenizer

ROWS = task_rows("sentence-similarity")


def embedding(model, text, pooling):
    with torch.inference_mode():
        hidden = model(**tiny_tokenizer()(text, return_tensors="pt")).last_hidden_state[0].double()
    return (hidden[0] if pooling == "cls" else hidden.mean(0)).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("which", ["reference", "quantized"])
def test_correlations_are_those_of_cosines_one_by_one(which, pooling):
    model = {"reference": task_model, "quantized": quantized_model}[which]("sentence-similarity")
    cosines = []
    for row in ROWS:
        first, second = (embedding(model, row[name], pooling) for name in ("sentence1", "sentence2"))
        cosines.append(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    scores = [row["score"] for row in ROWS]
    report = evaluated("sentence-similarity", pooling=pooling)
    found = {metric.name: getattr(metric, which) for metric in report.metrics}
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(cosines, scores).statistic, abs=0.01)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(cosines, scores).statistic, abs=1e-3)


def test_a_head_is_left_out():
    with_head = evaluated("sentence-similarity", task_model("masked-lm"), task_model("masked-lm"))
    assert with_head.metrics[0].drop == 0 and with_head.examples == 40


def test_scores_have_to_be_numbers_and_poolings_known():
    with pytest.raises(EvaluationError, match="row 0 of score is 'much', no number"):
        evaluated("sentence-similarity", rows=[{"sentence1": "w1", "sentence2": "w2", "score": "much"}])
    with pytest.raises(EvaluationError, match="no pooling 'max'"):
        evaluated("sentence-similarity", pooling="max")
