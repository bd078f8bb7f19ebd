"""Traces of Hessians are, on average, the exact ones."""

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity.hessian import HessianTrace
from tests.integration.tiny import tiny_model, token_ids

DRAWS = 30


def test_the_trace_of_a_small_module_is_exact_on_average(monkeypatch):
    model = tiny_model("bert", BertForSequenceClassification).eval()
    row = {"input_ids": token_ids(rows=1), "labels": torch.tensor([1])}
    weight = model.classifier.weight

    def loss(values):
        return torch.func.functional_call(model, {"classifier.weight": values}, (), row).loss

    exact = torch.autograd.functional.hessian(loss, weight.detach()).flatten(2).flatten(0, 1).diagonal().sum()
    torch.manual_seed(0)
    monkeypatch.setattr(
        HessianTrace, "_signs", lambda self, like: torch.randint(0, 2, like.shape).to(like.dtype).mul_(2).sub_(1)
    )
    work = HessianTrace(model, (SCHEMES["16 bits"],))  # rounds no inputs, whose draws would add to the noise
    with work.running():
        for _ in range(DRAWS):
            work.add(row, 0)
    place = list(work.candidates).index("classifier")
    assert float(work.sums["weights"][place]) / DRAWS == pytest.approx(float(exact), rel=0.4)


def test_the_same_sequences_give_the_same_traces_in_any_order():
    model, rows = tiny_model("llama"), [{"input_ids": ids[None], "labels": ids[None]} for ids in token_ids(rows=3)]
    found = []
    for order in (rows, rows[::-1]):
        work = HessianTrace(model, (SCHEMES["4 bits"],))
        with work.running():
            for row in order:
                work.add(row, 0)
        found.append(work.losses(3))
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5)
