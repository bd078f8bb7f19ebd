"""The Fisher measure: exact where it can be, and right about what matters."""

import copy

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_quant.errors import CalibrationError, PlanError
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity.analysis import analyse
from tests.integration.tiny import tiny_model, token_ids

ALL = tuple(SCHEMES.values())


def batches(rows=6, seed=0):
    return [{"input_ids": token_ids(rows=rows, seed=seed)}]


def measured(name="llama-gqa", model=None, schemes=ALL):
    return analyse(tiny_model(name) if model is None else model, batches(), schemes, progress=False)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-gqa"])
def test_fewer_bits_lose_more(name):
    table = measured(name)
    for row in table.losses:
        assert all(loss is not None and loss >= 0 for loss in row)
        assert list(row[:6]) == sorted(row[:6], reverse=True)


def test_squares_are_those_of_each_sequences_gradient():
    model = tiny_model("llama")
    scheme = SCHEMES["16 bits"]
    name = "model.layers.0.mlp.down_proj"
    weight = model.get_submodule(name).weight
    expected = torch.zeros_like(weight)
    for row in token_ids(rows=6):
        tokens = len(row) - 1
        loss = model.eval()(input_ids=row[None], labels=row[None]).loss
        (gradient,) = torch.autograd.grad(loss * tokens, weight)
        expected += gradient.square() / tokens / 6
    change = (weight.to(torch.bfloat16).float() - weight).detach()
    found = measured("llama", schemes=(scheme,)).loss(name, scheme)
    assert found == pytest.approx(float((expected * change.square()).sum()) / 2, rel=1e-4)


def test_a_module_that_matters_more_is_more_sensitive():
    plain, planted = tiny_model("llama"), tiny_model("llama")
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)]
    with torch.no_grad():
        planted.get_submodule(names[1]).weight[:, 5] *= 30  # an outlier: the grid of its groups gets coarse
    scheme = SCHEMES["4 bits"]
    before, after = (measured(model=model, schemes=(scheme,)) for model in (plain, planted))
    assert after.loss(names[1], scheme) > 10 * before.loss(names[1], scheme)


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama").train()
    model.lm_head.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    measured(model=model)
    assert model.training and not model.lm_head.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_padding_counts_nowhere():
    model = tiny_model("llama")
    ids = token_ids(rows=3)
    padded = torch.cat([ids, torch.full((3, 5), 7)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(3, 5, dtype=torch.int64)], dim=1)
    alone = analyse(model, [{"input_ids": ids}], ALL, progress=False)
    filled = analyse(model, [{"input_ids": padded, "attention_mask": mask}], ALL, progress=False)
    for first, second in zip(alone.losses, filled.losses, strict=True):
        assert second == pytest.approx(first, rel=1e-3)


def test_classifiers_need_labels():
    model = tiny_model("bert", BertForSequenceClassification)
    with pytest.raises(CalibrationError, match="labels"):
        analyse(model, batches(), ALL, progress=False)
    rows = [{**batches()[0], "labels": torch.tensor([0, 1, 0, 1, 0, 1])}]
    table = analyse(model, rows, ALL, progress=False)
    assert table.unit == "nats per example" and table.loss("classifier", ALL[0]) > 0


def test_nan_and_no_data_are_refused():
    with pytest.raises(CalibrationError, match="no data"):
        analyse(tiny_model("llama"), [], ALL, progress=False)
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[:] = 3e38  # finite, but nothing that comes of it is
    with pytest.raises((CalibrationError, PlanError), match="NaN"):
        measured(model=model)
