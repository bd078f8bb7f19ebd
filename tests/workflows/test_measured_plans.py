"""What a recipe leaves of the loss of rounding to nearest, and what that does to sensitivities."""

import copy

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from hf_quant import Plan, Recipe, Scheme, TensorScheme
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.workflows.measured_plans import MeasuredPlans, left_by, with_less_lost
from tests.integration.tiny import tiny_model, token_ids

GPTQ = Recipe(solver={"gptq": {"grid": "mse"}})
FEW = (SCHEMES["3 bits"], SCHEMES["16 bits"])


@pytest.fixture(scope="module")
def setup():
    model = tiny_model("llama-untied")
    rows = [{"input_ids": token_ids(rows=1, length=32, seed=seed)} for seed in range(16)]
    table = analyse(model, rows, FEW, progress=False)
    return model, rows, table, Plan({name: FEW[0] for name in table.modules})


def distance(model):
    """A quality: how far logits are from those of the float model, which no luck makes smaller."""

    @torch.no_grad()
    def measure(other, rows):
        return sum(float((other(**row).logits - model(**row).logits).square().mean()) for row in rows)

    return measure


def linears(model):
    return set(Inventory.of(model).linears())


def test_a_recipe_that_compensates_leaves_a_part(setup):
    model, rows, _, plan = setup
    left = left_by(GPTQ, model, plan, linears(model), rows[:4], rows[4:], distance(model))
    assert 0.05 <= left < 0.9
    assert left_by(Recipe(), model, plan, linears(model), rows[:4], rows[4:], distance(model)) == 1.0


def test_only_linears_count(setup):
    model, rows, _, plan = setup
    outside = Plan({name: scheme for name, scheme in plan.modules.items() if not name.startswith("model.layers")})
    assert left_by(GPTQ, model, outside, linears(model), rows[:4], rows[4:], distance(model)) == 1.0


def test_losses_of_linears_are_scaled_and_no_others(setup):
    model, _, table, _ = setup
    scaled = with_less_lost(table, linears(model), 0.25)
    for name, before, after in zip(table.modules, table.losses, scaled.losses, strict=True):
        factor = 0.25 if name.startswith("model.layers") else 1.0
        assert after[0] == pytest.approx(factor * before[0])
        assert after[1] == before[1]  # 16-bit floats, which no recipe rounds


def test_the_model_is_copied_and_each_plan_measured_once(setup):
    model, rows, _, plan = setup
    before, calls = copy.deepcopy(model.state_dict()), []
    plans = MeasuredPlans(model, rows[:2], lambda each, data: calls.append(each) or distance(model)(each, data))
    assert plans.rise(Plan({name: None for name in plan.modules})) == 0.0
    assert plans.rise(plan) > 0 and len(calls) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_multiplies_with_a_weight_itself_is_named_where_the_plan_changes_its_dtype():
    config = MambaConfig(vocab_size=128, hidden_size=64, state_size=8, num_hidden_layers=1)
    model = MambaForCausalLM(config).eval()
    name = "backbone.layers.0.mixer.dt_proj"
    rows = [{"input_ids": token_ids(rows=1, length=8)}]
    with pytest.raises(UnsupportedModel, match=f"1, such as {name}: offer other schemes"):
        MeasuredPlans(model, rows, distance(model)).rise(Plan({name: SCHEMES["16 bits"]}))
    assert MeasuredPlans(model, rows, distance(model)).rise(Plan({name: Scheme(TensorScheme(bits=8))})) >= 0
