"""A plan is searched for a mixture of experts as for any model, and what is saved by it keeps the budget."""

import copy
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant import HfQuantConfig, Recipe
from hf_quant.evaluation.file_size import computed_bytes, directory_bytes
from hf_quant.planner.cost.disk import plan_bytes
from hf_quant.planner.cost.latency import Pass, predict_latency
from hf_quant.planner.offered import SCHEMES
from hf_quant.workflows.estimate import estimate_file_bytes
from tests.integration.tiny import outputs, token_ids
from tests.planner.cost.tables import INT4, INT8, table
from tests.planner.mixtures import EXPERTS, MIXTURES, PARTS, Untouched, experts_of, mixture

ROWS = [{"input_ids": token_ids(rows=4, length=16)}]


def planned(model, budget, **options):
    return hf_quant.search_plan(model, ROWS, budget, **{"progress": False, "measurements": 1, **options})


@pytest.mark.parametrize("name", MIXTURES)
def test_a_plan_keeps_its_budget_and_is_what_is_saved(name, tmp_path):
    model = mixture(name)
    with Untouched(model):
        plan, report = planned(model, "30%")
    for layer in range(2):
        for part in PARTS:
            assert len({plan.modules[expert] for expert in experts_of(layer, part, name)}) == 1
    hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=plan), progress=False).save_pretrained(tmp_path)
    assert directory_bytes(tmp_path) == plan_bytes(model, plan) == report.bytes <= 0.3 * computed_bytes(model)
    assert report.measured_loss is not None
    rows = [row[0] for row in report.tables()[0].rows]
    assert any(re.fullmatch(r"model.layers.1.mlp.experts.{0-\d}.down_proj", row) for row in rows) and len(rows) < 20


def test_a_plan_that_leaves_experts_float_is_saved_and_loaded(tmp_path):
    model = mixture("qwen3-moe")
    plan, report = planned(model, "90%", pins={"model.layers.1.mlp.experts.*": "float"}, measurements=0)
    quantized = hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=plan), progress=False)
    quantized.save_pretrained(tmp_path)
    assert directory_bytes(tmp_path) == report.bytes
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path)), outputs(quantized))


def test_a_budget_of_time_is_one_of_the_experts_that_a_token_goes_to():
    step, kernels = Pass(tokens=1, context=8, logits=1), table()
    found = {}
    for chosen in (2, EXPERTS["mixtral"]):
        model = mixture(num_experts_per_tok=chosen)
        float_time = predict_latency(model, kernels, step).total
        plan, report = planned(
            model, f"{0.95 * float_time}ms", kernels=kernels, step=step, measurements=0, schemes=(INT8, INT4)
        )
        assert report.milliseconds == pytest.approx(predict_latency(model, kernels, step, plan).total, rel=0.01)
        found[chosen] = report.milliseconds
    assert found[2] < 0.8 * found[EXPERTS["mixtral"]]


def test_a_plan_is_measured_by_the_recipe_that_carries_it_out():
    model = mixture()
    with Untouched(model):
        _, report = planned(model, "40%", recipe=Recipe(solver="gptq"), schemes=(SCHEMES["4 bits"], SCHEMES["8 bits"]))
    assert "gptq" in report.rounding and report.measured_loss is not None


def test_the_size_of_a_mixture_is_estimated_from_its_config(tmp_path):
    model = mixture("qwen3-moe")
    for preset in (None, "int4", HfQuantConfig(plan=hf_quant.Plan({"*.experts.*.up_proj": SCHEMES["4 bits"]}))):
        expected = estimate_file_bytes(type(model), model.config, preset)
        saved = copy.deepcopy(model)
        if preset is not None:
            hf_quant.quantize(saved, preset, progress=False)
        saved.save_pretrained(tmp_path / str(expected))
        assert directory_bytes(tmp_path / str(expected)) == expected
