"""Times of whole models are sums over what they call."""

from dataclasses import replace

import pytest
import torch

import hf_quant
from hf_quant.config.plan import Plan
from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError, PlanError
from hf_quant.planner.cost.compare import compare_latency
from hf_quant.planner.cost.latency import (
    LatencyCosts,
    Pass,
    attention_operations,
    kinds_of_blocks,
    linears,
    predict_latency,
)
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


def test_a_cache_of_a_model_with_weights_in_16_bits_has_the_dtype_of_the_others():
    bf16 = PRESETS["bf16"].linear
    plan = Plan({"*embed_tokens": bf16, "*_proj": INT8})
    step, model = Pass(context=1000), tiny_model("llama-untied")
    expected = predict_latency(model, KERNELS, step).attention
    quantized = hf_quant.quantize(model, hf_quant.HfQuantConfig(plan=plan), progress=False)
    assert quantized.dtype == torch.bfloat16  # of the embeddings, which come first
    assert predict_latency(quantized, KERNELS, step).attention == pytest.approx(expected)


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


def test_what_a_cache_takes_counts_where_there_is_one():
    model, plan = tiny_model("llama"), Plan({"*_proj": INT8})
    cached = replace(LLAMA, cache_block=0.1, cache_per_byte=1e-6, cache_model=0.2, attention=1e-6)
    measured = table((LLAMA_FLOAT, cached))
    without, found = (predict_latency(model, measured, Pass(context=context), plan) for context in (0, 100))
    assert found.overhead - without.overhead == pytest.approx(0.2 + LAYERS * 0.1)
    held, operations = 2 * LAYERS * 100 * 64 * 4, LAYERS * 4 * 64
    assert without.attention == pytest.approx(operations * 1e-6)
    assert found.attention == pytest.approx(held * 1e-6 + 101 * operations * 1e-6)


def test_keys_and_values_that_heads_share_are_read_once_for_each():
    model, plan, step = tiny_model("llama"), Plan({"*_proj": INT8}), Pass(context=100)
    costs = replace(LLAMA, cache_per_byte=2e-6, cache_per_read=1e-6)
    own = predict_latency(model, table((LLAMA_FLOAT, costs)), step, plan).attention
    model.config.num_key_value_heads = model.config.num_attention_heads // 2
    shared = predict_latency(model, table((LLAMA_FLOAT, costs)), step, plan).attention
    held = 2 * LAYERS * 100 * 64 * 4
    assert own - shared == pytest.approx(held / 2 * 2e-6)


def test_a_causal_mask_leaves_half_of_the_products():
    assert attention_operations(4, 0, 1, 8, causal=True) == 4 * (1 + 2 + 3 + 4) * 8
    assert attention_operations(4, 0, 3, 8, causal=False) == 3 * 4 * 16 * 8
    assert attention_operations(1, 7, 1, 8, causal=True) == 4 * 8 * 8


def test_blocks_of_several_schemes_take_what_mixed_ones_do():
    model, step = tiny_model("llama"), Pass(tokens=1)
    mixed = replace(LLAMA, kind="mixed", block=0.9)
    measured = table((LLAMA, LLAMA_FLOAT, mixed))
    plan = Plan({"model.layers.0.*": INT8, "model.layers.1.*": INT8, "model.layers.1.mlp.up_proj": INT4})
    found = predict_latency(model, measured, step, plan).overhead
    assert found == pytest.approx(LLAMA.model + LLAMA.block + mixed.block)
    assert LatencyCosts(model, measured, step).fixed_milliseconds == pytest.approx(
        mixed.model + LAYERS * mixed.block + 1e3 * LAYERS * 4 * 64 / measured.multiply
    )


def test_kinds_of_blocks_are_those_of_their_linears():
    names = [f"layers.{layer}.{name}" for layer in range(4) for name in ("q", "k")]
    schemes = [INT8, INT8, None, None, INT8, INT4, INT4, INT4]
    found = kinds_of_blocks({**dict(zip(names, schemes, strict=True)), "pooler": None})
    assert found == {"fused": 0.5, "float": 0.25, "mixed": 0.25}
    assert kinds_of_blocks({"one": INT8}) == {"fused": 1.0}


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
