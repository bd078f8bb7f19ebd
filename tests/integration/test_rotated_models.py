"""Weights and inputs rotated before they are rounded."""

import copy

import pytest
import torch

import hf_quant
from hf_quant import HfQuantConfig, Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.formats import format_of
from hf_quant.formats.rotation import rotate
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model

ROTATED = HfQuantConfig("int8", rotation=32)


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_reloading_copying_and_quantizing_in_memory_agree_bit_for_bit(name, preset, load, tmp_path):
    config = HfQuantConfig(preset, rotation=32)
    model = load(name, config)
    expected = outputs(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), expected)
    assert torch.equal(outputs(copy.deepcopy(model)), expected)
    assert torch.equal(outputs(hf_quant.quantize(tiny_model(name), config, progress=False)), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_dequantizing_turns_the_weights_back(name, load, float_outputs):
    model = load(name, HfQuantConfig("w8a16", rotation=32))
    expected = outputs(model)
    restored = outputs(model.dequantize())
    assert error(restored, expected) < 2e-2
    assert error(restored, float_outputs[name]) < 0.06


@pytest.mark.parametrize("name", FAMILIES)
def test_one_graph_is_compiled_and_gives_the_same(name, load):
    model = load(name, ROTATED)
    expected = outputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert error(outputs(compiled), expected) < 1e-5


def test_outliers_in_the_input_cost_less():
    torch.manual_seed(0)
    inputs = torch.randn(16, 64)
    inputs[:, 5] *= 40
    weight = torch.randn(32, 64)
    plain = TensorScheme(bits=8, granularity="token", dynamic=True)
    exact = inputs @ weight.t()

    def quantized(left, right):
        codes = format_of(plain)
        return codes.decode(*codes.quantize_input(left)) @ right.t()

    without = (quantized(inputs, weight) - exact).norm()
    rotated = (quantized(rotate(inputs, 64), rotate(weight, 64)) - exact).norm()
    assert rotated < 0.4 * without


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (HfQuantConfig("int8"), {64: 64, 128: 64}),
        (HfQuantConfig("int8", rotation=128), {64: 64, 128: 128}),
        (HfQuantConfig("int8", rotation=16), {64: 16, 128: 16}),
        (HfQuantConfig("int8", rotation=0), {64: None, 128: None}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value.rotation),
)
def test_blocks_are_the_largest_that_divide_the_width(load, config, expected):
    rotations = {
        module.spec.in_features: module.spec.scheme.weight.rotation
        for module in load("bert", config).modules()
        if hasattr(module, "spec")
    }
    assert rotations == expected


def test_embeddings_and_heads_of_int4_are_rotated_and_its_groups_are_not(load):
    model = load("llama", HfQuantConfig("int4"))
    assert model.model.embed_tokens.spec.scheme.weight.rotation == 64
    assert model.lm_head.spec.scheme.weight.rotation == 64
    assert model.model.layers[0].self_attn.q_proj.spec.scheme.weight.rotation is None


def test_a_rotation_that_does_not_fit_a_scheme_is_an_error_that_names_the_choices(load):
    with pytest.raises(ConfigError, match="16, 32, 64, 128, 256"):
        HfQuantConfig("int8", rotation=48)
    with pytest.raises(ConfigError, match="belongs to the weight"):
        Scheme(TensorScheme(), TensorScheme(granularity="token", dynamic=True, rotation=16))
    with pytest.raises(PlanError, match="does not divide its width 64"):
        load("bert", HfQuantConfig(scheme=Scheme(TensorScheme(rotation=128))))
    with pytest.raises(ConfigError, match="apply to a preset"):
        HfQuantConfig(plan=hf_quant.Plan({"*": None}), rotation=64)
