"""What a plan costs on disk is known to the byte before anything is quantized."""

import random

import pytest
import torch

import hf_quant
from hf_quant.config.plan import Plan
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import PlanError, UnsupportedModel
from hf_quant.evaluation.file_size import directory_bytes, saved_tensors
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.cost.disk import DiskCosts, plan_bytes
from hf_quant.planner.cost.skeleton import quantized_skeleton
from tests.integration.derived_families import make
from tests.integration.tiny import CHECKPOINTS, tiny_model
from tests.naming import naming
from tests.planner.mixtures import PARTS, experts_of, mixture

CHOICES = (
    None,
    PRESETS["int8"].linear,
    PRESETS["int4"].linear,
    PRESETS["w4a16"].linear,
    PRESETS["int16"].linear,
    PRESETS["bf16"].linear,
    Scheme(TensorScheme(bits=3, granularity="group", group_size=32)),
    Scheme(TensorScheme(bits=5, symmetric=False)),
    Scheme(TensorScheme(bits=8, granularity="tensor")),
)
INT8 = Scheme(TensorScheme(bits=8))


def random_choices(model, seed):
    """A scheme for each module, the same for those that are tied."""
    draw = random.Random(seed)
    chosen = {name: draw.choice(CHOICES) for name in Inventory.of(model).candidates}
    for target, source in Inventory.of(model).ties.items():
        chosen[target] = chosen[source]
    return chosen


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_mixed_plan_costs_what_the_saved_files_have(name, seed, tmp_path):
    model = tiny_model(name)
    plan = Plan(random_choices(model, seed))
    expected = plan_bytes(model, plan)
    hf_quant.quantize(model, hf_quant.HfQuantConfig(plan=plan), progress=False).save_pretrained(tmp_path)
    assert expected == directory_bytes(tmp_path)


MIXED = {
    "all experts": {"*.experts.*": INT8},
    "one linear of the experts": {"*.experts.*.up_proj": PRESETS["w4a16"].linear},
    "experts of one layer": {"model.layers.1.mlp.experts.*": INT8, "*.experts.*.down_proj": PRESETS["bf16"].linear},
    "no experts": {"*_proj": INT8, "*.experts.*": None},
    "nothing": {},
}


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_a_plan_of_a_mixture_costs_what_the_saved_files_have(name, tmp_path):
    for case, schemes in MIXED.items():
        model, plan = mixture(name), Plan(schemes)
        with naming(case):
            costs, expected = DiskCosts(model), plan_bytes(model, plan)
            chosen = plan.resolve(costs.candidates).modules
            total = costs.fixed_bytes + sum(costs.of(module, chosen.get(module)) for module in costs.candidates)
            if chosen:
                hf_quant.quantize(model, hf_quant.HfQuantConfig(plan=plan), progress=False)
            model.save_pretrained(tmp_path / case)
            assert expected == directory_bytes(tmp_path / case) == costs.exact(plan)
            # Experts that stay float together are saved as a few tensors, and searched as many.
            entries = 150 * len(PARTS) * sum(len(experts_of(layer, "up_proj", name)) for layer in range(2))
            if chosen:
                assert expected <= total <= expected + costs.slack(len(costs.candidates) * 2) + entries


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_additive_sum_is_never_below_the_exact_bytes_and_within_its_slack(name, seed):
    model = tiny_model(name)
    costs, chosen = DiskCosts(model), random_choices(model, seed)
    plan = Plan(chosen)
    total = costs.fixed_bytes + sum(costs.of(module, scheme) for module, scheme in chosen.items())
    exact = costs.exact(plan)
    tensors = len(saved_tensors(quantized_skeleton(model, plan)))
    assert exact <= total <= exact + costs.slack(tensors)
    assert total < 1.05 * exact, "the bound is useful even for a model as tiny as this"


@pytest.mark.parametrize("name", ["gemma3", "bart", "falcon", "marian"])
def test_plans_for_classes_of_a_models_own_cost_what_the_saved_files_have(name, tmp_path):
    model = make(name)
    plan = Plan(random_choices(model, 0))
    expected, costs = plan_bytes(model, plan), DiskCosts(model)
    total = costs.fixed_bytes + sum(costs.of(module, scheme) for module, scheme in plan.modules.items())
    tensors = len(saved_tensors(quantized_skeleton(model, plan)))
    assert expected <= total <= expected + costs.slack(tensors)
    hf_quant.quantize(model, hf_quant.HfQuantConfig(plan=plan), progress=False).save_pretrained(tmp_path)
    assert expected == directory_bytes(tmp_path)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_meta_device_and_memory_give_the_same(name):
    model = tiny_model(name)
    with torch.device("meta"):
        empty = type(model)(model.config)
    plan = Plan(random_choices(model, 3))
    assert plan_bytes(empty, plan) == plan_bytes(model, plan)
    assert DiskCosts(empty).float_bytes == DiskCosts(model).float_bytes
    assert DiskCosts(empty).fixed_bytes == DiskCosts(model).fixed_bytes


def test_the_float_model_is_the_plan_that_chooses_nothing(tmp_path):
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path)
    assert plan_bytes(model, Plan({})) == DiskCosts(model).float_bytes == directory_bytes(tmp_path)


def test_tied_weights_cost_once():
    costs = DiskCosts(tiny_model("llama"))
    for scheme in (None, PRESETS["int8"].head, PRESETS["bf16"].head):
        assert costs.of("model.embed_tokens", scheme) > 0
        assert costs.of("lm_head", scheme) == 0


def test_static_inputs_of_a_tied_head_are_its_own():
    static = Scheme(TensorScheme(bits=8), TensorScheme(symmetric=False, granularity="tensor"))
    costs = DiskCosts(tiny_model("llama"))
    assert costs.of("lm_head", static) > 5, "a scale and a zero point, which no embedding has"


def test_the_model_that_was_priced_is_as_it_was():
    model = tiny_model("llama")
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.state_dict().items()}
    plan_bytes(model, Plan(random_choices(model, 1)))
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.state_dict().items()} == before


def test_what_cannot_be_priced_is_a_typed_error():
    model = tiny_model("llama")
    costs = DiskCosts(model)
    with pytest.raises(PlanError, match="did you mean 'lm_head'"):
        costs.of("lm_heat", None)
    with pytest.raises(PlanError, match="tied"):
        costs.exact(Plan({"lm_head": PRESETS["int8"].head, "model.embed_tokens": PRESETS["int4"].linear}))
    quantized = hf_quant.quantize(model, "int8", progress=False)
    with pytest.raises(UnsupportedModel, match="already"):
        DiskCosts(quantized)


def test_one_end_of_a_tie_that_stays_float_keeps_the_other():
    model = tiny_model("llama")
    plan = Plan({"lm_head": PRESETS["int8"].head, "model.embed_tokens": None})
    assert plan_bytes(model, plan) == DiskCosts(model).float_bytes
