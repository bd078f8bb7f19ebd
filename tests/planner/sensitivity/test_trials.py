"""Losses and divergences are those of the model with one module quantized."""

import copy

import pytest
import torch
from transformers import BertForSequenceClassification, BertModel

import hf_quant
from hf_quant import HfQuantConfig, Plan
from hf_quant.errors import CalibrationError
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.loss import LossChange
from hf_quant.planner.sensitivity.trials import Trials
from tests.integration.tiny import tiny_model, token_ids

CHOSEN = {
    "llama-untied": ["model.embed_tokens", "model.layers.0.self_attn.k_proj", "lm_head"],
    "gpt2": ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"],
}


def data(rows=2):
    return [{"input_ids": token_ids(rows=rows)}]


@torch.no_grad()
def outputs_of(model, ids):
    return model.eval()(input_ids=ids, labels=ids)


@pytest.mark.parametrize("name", list(CHOSEN))
@pytest.mark.parametrize("bits", ["3 bits", "8 bits"])
def test_the_loss_is_that_of_the_quantized_model(name, bits):
    model, scheme, ids = tiny_model(name), SCHEMES[bits], token_ids(rows=1)
    table = analyse(model, [{"input_ids": ids}], (scheme,), "loss", progress=False)
    before = outputs_of(model, ids).loss
    for module in CHOSEN[name]:
        config = HfQuantConfig(plan=Plan({module: scheme}))
        quantized = hf_quant.quantize(copy.deepcopy(model), config, progress=False)
        expected = float(outputs_of(quantized, ids).loss - before)
        assert table.loss(module, scheme) == pytest.approx(expected, abs=2e-5, rel=2e-2), module


def test_the_divergence_is_that_of_the_quantized_model():
    model, scheme, ids = tiny_model("llama"), SCHEMES["2 bits"], token_ids(rows=1)
    found = analyse(model, [{"input_ids": ids}], (scheme,), "kl", progress=False)
    module = "model.layers.1.self_attn.v_proj"
    quantized = hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=Plan({module: scheme})), progress=False)
    logs = [torch.log_softmax(outputs_of(each, ids).logits[0], -1) for each in (model, quantized)]
    expected = float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean())
    assert found.loss(module, scheme) == pytest.approx(expected, rel=1e-2)
    assert all(row[0] >= 0 for row in found.losses)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_blocks_that_are_passed_over_change_nothing(name, monkeypatch):
    options = (BertForSequenceClassification,) if name == "bert" else ()
    model, rows = tiny_model(name, *options), data()
    if name == "bert":
        rows[0]["labels"] = torch.tensor([1, 0])
    short = analyse(model, rows, (SCHEMES["3 bits"],), "loss", progress=False)
    monkeypatch.setattr(LossChange, "_passed", lambda self, name: 0)
    full = analyse(model, rows, (SCHEMES["3 bits"],), "loss", progress=False)
    for one, other in zip(short.losses, full.losses, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_most_blocks_are_passed_over(monkeypatch):
    model, passed = tiny_model("llama"), {}
    original = Trials._passed
    monkeypatch.setattr(Trials, "_passed", lambda self, name: passed.setdefault(name, original(self, name)))
    analyse(model, data(1), (SCHEMES["8 bits"],), "kl", progress=False)
    assert passed["model.embed_tokens"] == 0 and passed["model.layers.1.mlp.up_proj"] == 1
    assert passed["lm_head"] == len(model.model.layers)


def test_padding_counts_in_no_divergence():
    model, ids = tiny_model("llama"), token_ids(rows=2)
    padded = torch.cat([ids, torch.full((2, 5), 7)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    alone, filled = (
        analyse(model, [batch], (SCHEMES["2 bits"],), "kl", progress=False)
        for batch in ({"input_ids": ids}, {"input_ids": padded, "attention_mask": mask})
    )
    for first, second in zip(alone.losses, filled.losses, strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-7)


def test_a_model_without_logits_has_no_divergence():
    with pytest.raises(CalibrationError, match="no logits"):
        analyse(tiny_model("bert", BertModel), data(), (SCHEMES["2 bits"],), "kl", progress=False)
