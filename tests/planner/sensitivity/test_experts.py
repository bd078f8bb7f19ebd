"""What the experts of a layer lose is measured as one, whichever of them tokens come to."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from hf_quant.algorithms.rounding import rounded_weight
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opened
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity import base as base_of_measures
from hf_quant.planner.sensitivity.analysis import analyse
from tests.integration.tiny import token_ids
from tests.planner.mixtures import EXPERTS, MIXTURES, PARTS, experts_of, mixture

THREE = (SCHEMES["3 bits"], Scheme(TensorScheme(bits=4, granularity="tensor")))
ROWS = [{"input_ids": token_ids(rows=2, length=12)}]
SHORT = [{"input_ids": token_ids(rows=1, length=8)}]


def measured(model, measure="fisher", schemes=THREE, rows=ROWS, **options):
    return analyse(model, rows, schemes, measure, progress=False, **options)


def without(model, expert):
    """A mixture whose routers send no token to one expert."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.forward = _avoiding(layer.mlp.gate, expert)
    return model


def _avoiding(gate, expert):
    def forward(hidden):
        found = type(gate).forward(gate, hidden)
        return (*found[:-1], torch.where(found[-1] == expert, (expert + 1) % EXPERTS["mixtral"], found[-1]))

    return forward


class NoExperts(nn.Module):
    """A block in the place of experts, which are there and not called."""

    def __init__(self, block):
        super().__init__()
        self.experts = block.experts

    def forward(self, hidden):
        return hidden


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_together_lose_by_fisher_what_they_lose_one_by_one(name, monkeypatch):
    model = mixture(name)
    with opened(model):
        inventory = Inventory.of(model)
    one_by_one = measured(model, inventory=replace(inventory, experts={}))
    for at_once in (2**24, 5000):
        monkeypatch.setattr(base_of_measures, "_AT_ONCE", at_once)
        together = measured(model)
        assert len(together.modules) < len(one_by_one.modules)
        for layer in range(2):
            for part in PARTS:
                members = experts_of(layer, part, name)
                for scheme in THREE:
                    parts = sum(one_by_one.loss(member, scheme) for member in members)
                    assert together.loss(members[0], scheme) == pytest.approx(parts, rel=1e-4)


@torch.no_grad()
def test_trials_quantize_all_experts_of_a_layer_at_once():
    model, scheme = mixture(), Scheme(TensorScheme(bits=3, symmetric=False))
    found = measured(model, "loss", (scheme,))
    rises = []
    for ids in ROWS[0]["input_ids"]:
        before = float(model(input_ids=ids[None], labels=ids[None]).loss)
        stacked = model.model.layers[1].mlp.experts.down_proj
        kept = stacked.detach().clone()
        for expert in stacked:
            expert.copy_(rounded_weight(expert.clone(), scheme.weight, "down"))
        rises.append(float(model(input_ids=ids[None], labels=ids[None]).loss) - before)
        stacked.copy_(kept)
    assert found.loss(experts_of(1, "down_proj")[0], scheme) == pytest.approx(sum(rises) / len(rises), abs=1e-5)


@pytest.mark.parametrize("measure", list(MEASURES))
def test_an_expert_without_tokens_hides_nothing_of_what_the_others_lose(measure, caplog):
    with caplog.at_level(logging.WARNING):
        found = measured(without(mixture(), 0), measure, rows=SHORT)
    losses = [found.loss(experts_of(layer, part)[0], THREE[0]) for layer in range(2) for part in PARTS]
    # Curvature that is drawn below 0 counts as 0.
    assert None not in losses and (any(losses) if measure == "hessian" else all(losses))
    assert "no token" not in caplog.text


@pytest.mark.parametrize("measure", list(MEASURES))
def test_experts_that_no_token_comes_to_stay_float_with_a_warning(measure, caplog, tmp_path):
    model, file = mixture(), tmp_path / "losses.json"
    model.model.layers[1].mlp = NoExperts(model.model.layers[1].mlp)
    for turn in ("measured", "read from the file"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = measured(model, measure, rows=SHORT, file=file, fingerprint="one")
        assert "model.layers.1.mlp.experts.0.gate_proj" in caplog.text and "3 of 6" in caplog.text, turn
    for unit in build_problem(DiskCosts(model), found, THREE).units:
        is_lost = "layers.1.mlp.experts" in unit.name
        assert [option.scheme for option in unit.options if option.scheme is None or not is_lost] == [
            option.scheme for option in unit.options
        ]


def test_schemes_that_do_not_fit_experts_are_not_taken_for_experts_without_tokens(caplog):
    with caplog.at_level(logging.WARNING):
        found = measured(mixture("qwen3-moe"), schemes=(SCHEMES["8 bits"],))  # rotated by 64, and of width 32
    assert found.loss(experts_of(0, "down_proj")[0], SCHEMES["8 bits"]) is None and "no token" not in caplog.text
