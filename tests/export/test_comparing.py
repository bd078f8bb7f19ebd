import pytest
import torch

import hf_quant
from hf_quant.export.comparing import WEIGHT_ONLY, allowed_error, relative_error, rounding_floor, sample
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.tiny import tiny_model


def test_a_sample_is_the_same_each_time():
    model = hf_quant.quantize(tiny_model("llama"), "int8")
    (inputs, first), (again, second) = sample(model), sample(model)
    assert torch.equal(inputs["input_ids"], again["input_ids"]) and torch.equal(first, second)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_flips_of_quantized_inputs_are_far_above_the_rounding_of_float_ones(family):
    made = {name: hf_quant.quantize(tiny_model(family), HfQuantConfig(name)) for name in ("w8a16", "int8")}
    floors, allowed = {}, {}
    for name, model in made.items():
        inputs, expected = sample(model)
        before = [parameter.clone() for parameter in model.parameters() if parameter.ndim == 1]
        floors[name] = rounding_floor(model, inputs, expected)
        allowed[name] = allowed_error(model, inputs, expected)
        after = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert torch.equal(sample(model)[1], expected)
    assert 0 < floors["w8a16"] < WEIGHT_ONLY == allowed["w8a16"]
    assert floors["int8"] > 20 * floors["w8a16"] and allowed["int8"] == 2 * floors["int8"]


def test_models_of_few_bits_may_differ_by_their_last():
    model = hf_quant.quantize(tiny_model("llama").to(torch.bfloat16), "w8a16")
    assert allowed_error(model, *sample(model)) > 1e-3


def test_errors_are_relative_in_norm():
    assert relative_error(torch.tensor([3.0, 4.1]), torch.tensor([3.0, 4.0])) == pytest.approx(0.02, rel=1e-6)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
