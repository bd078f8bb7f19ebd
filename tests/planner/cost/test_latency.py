"""Times of whole models are sums over what they call."""

import pytest
import torch

import hf_quant
from hf_quant.config.plan import Plan
from hf_quant.errors import ConfigError, PlanError
from hf_quant.planner.cost.compare import compare_latency
from hf_quant.planner.cost.latency import LatencyCosts, Pass, linears, predict_latency
from tests.integration.tiny import CHECKPOINTS, LAYERS, VOCABULARY, tiny_model
from tests.planner.cost.tables import INT4, INT8, LLAMA, LLAMA_FLOAT, formula, table

KERNELS = table([LLAMA, LLAMA_FLOAT])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_linear_counts_once_and_heads_only_for_their_logits(name):
    model = tiny_model(name)
    step = Pass(tokens=8, batch=3, logits=1)
    predicted = predict_latency(model, KERNELS, step)
    expected = {True: 0.0, False: 0.0}
    for linear in linears(model):
        expected[linear.is_head] += formula(None, linear.inputs, linear.outputs, 3 if linear.is_head else 24)
    assert predicted.linears == pytest.approx(expected[False])
    assert predicted.heads == pytest.approx(expected[True])
    assert predicted.heads > 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_plan_and_the_model_it_makes_take_the_same(name):
    step = Pass(tokens=4)
    plan = Plan({linear.name: INT8 for linear in linears(tiny_model(name)) if not linear.is_head})
    predicted = predict_latency(tiny_model(name), KERNELS, step, plan)
    quantized = hf_quant.quantize(tiny_model(name), hf_quant.HfQuantConfig(plan=plan), progress=False)
    assert predict_latency(quantized, KERNELS, step) == predicted
    assert predicted.linears < predict_latency(tiny_model(name), KERNELS, step).linears


def test_the_costs_of_modules_and_what_is_fixed_add_up_to_the_prediction():
    model, step = tiny_model("llama-untied"), Pass(tokens=5, context=7)
    plan = Plan({linear.name: INT8 for linear in linears(model)})
    costs = LatencyCosts(model, KERNELS, step)
    total = costs.fixed_milliseconds + sum(costs.of(name, plan.modules.get(name)) for name in costs.candidates)
    assert total == pytest.approx(predict_latency(model, KERNELS, step, plan).total)


def test_overhead_is_that_of_fused_blocks_where_a_plan_quantizes():
    model, step = tiny_model("llama"), Pass(tokens=1)
    assert predict_latency(model, KERNELS, step).overhead == LLAMA_FLOAT.model + LAYERS * LLAMA_FLOAT.block
    plan = Plan({"*.q_proj": INT8})
    assert predict_latency(model, KERNELS, step, plan).overhead == LLAMA.model + LAYERS * LLAMA.block


def test_more_context_takes_longer_by_what_is_read_and_multiplied():
    model = tiny_model("llama")
    near, far = (predict_latency(model, KERNELS, Pass(context=context)).attention for context in (0, 1000))
    width = 64
    read = 2 * LAYERS * 1000 * width * 4 / KERNELS.read
    products = 4 * LAYERS * 1000 * width / KERNELS.multiply
    assert far - near == pytest.approx(1e3 * (read + products))


def test_looking_up_rows_counts_as_nothing_and_slower_schemes_can_be_refused():
    model = tiny_model("llama")
    lenient, strict = (LatencyCosts(model, KERNELS, Pass(tokens=8), refuse_slower=refuse) for refuse in (False, True))
    assert lenient.of("model.embed_tokens", INT8) == 0.0
    name = "model.layers.0.mlp.up_proj"
    assert lenient.is_slower_than_float(name, INT4) and not lenient.is_slower_than_float(name, INT8)
    assert lenient.of(name, INT4) > lenient.of(name, None)
    with pytest.raises(ConfigError, match="float32"):
        strict.of(name, INT4)
    with pytest.raises(PlanError, match="did you mean"):
        lenient.of("model.layers.0.mlp.up_pro", None)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"batch": 0}, {"context": -1}, {"logits": 0}, {"tokens": True}])
def test_a_pass_of_nothing_is_refused(wrong):
    with pytest.raises(ConfigError, match="integer of at least"):
        Pass(**wrong)


def test_a_table_of_another_machine_is_not_held_against_this_one():
    with pytest.raises(ConfigError, match="measure"):
        compare_latency(tiny_model("llama"), KERNELS, Pass())


def test_heads_of_meta_models_have_the_same_shapes():
    model = tiny_model("gpt2")
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert list(linears(empty)) == list(linears(model))
    assert [linear.outputs for linear in linears(model) if linear.is_head] == [VOCABULARY]
