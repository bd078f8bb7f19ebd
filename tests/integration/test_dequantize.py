"""`dequantize()`: the float model that the codes stand for, and nothing of the plugin left in it."""

import json

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import hf_quant
from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from tests.integration.tiny import (
    CHECKPOINTS,
    FAMILIES,
    auto_class,
    error,
    outputs,
    run_python,
    saved_tensors,
    tiny_model,
)

WEIGHT_ONLY = {"fp32": 0.0, "fp16": 2e-3, "bf16": 2e-2, "w8a16": 2e-2, "w4a16": 3e-2, "int8": 0.06, "int4": 0.06}
"""Preset to how far its logits may lie from the dequantized model's: kernels and activations round, weights agree."""


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_dequantized_modules_are_those_of_the_float_model(name, preset, load):
    model, reference = load(name, preset).dequantize(), tiny_model(name)
    assert not any(isinstance(module, QuantizedModule | StoredModule) for module in model.modules())
    kinds = {n: type(module) for n, module in model.named_modules()}
    assert kinds == {n: type(module) for n, module in reference.named_modules()}
    shapes = {n: (tensor.shape, tensor.dtype) for n, tensor in model.state_dict().items()}
    assert shapes == {n: (tensor.shape, tensor.dtype) for n, tensor in reference.state_dict().items()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (name != "llama-untied")


@pytest.mark.parametrize("preset", WEIGHT_ONLY)
@pytest.mark.parametrize("name", FAMILIES)
def test_dequantized_logits_are_those_of_the_codes(name, preset, load):
    model = load(name, preset)
    quantized = outputs(model)
    assert error(quantized, outputs(model.dequantize())) <= WEIGHT_ONLY[preset]


@pytest.mark.parametrize("preset", ["int8", "int4", "fp16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_saved_after_dequantizing_it_is_a_plain_checkpoint(name, preset, load, tmp_path):
    model = load(name, preset)
    model.save_pretrained(tmp_path / "quantized")
    model.dequantize()
    expected = outputs(model)
    model.save_pretrained(tmp_path / "float")
    config = json.loads((tmp_path / "float" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    reloaded = auto_class(name).from_pretrained(tmp_path / "float").eval()
    assert torch.equal(outputs(reloaded), expected)
    assert not getattr(reloaded, "is_quantized", False)
    assert all(tensor.is_floating_point() for tensor in saved_tensors(tmp_path / "float").values())


def test_a_dequantized_checkpoint_opens_without_the_plugin(load, tmp_path):
    model = load("gpt2", "int4")
    model.dequantize()
    model.save_pretrained(tmp_path)
    code = """
        import sys
        from transformers import AutoModelForCausalLM
        AutoModelForCausalLM.from_pretrained(sys.argv[1])
        assert "hf_quant" not in sys.modules
    """
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hf_quant" not in done.stderr
    assert "hf_quant" not in (tmp_path / "README.md").read_text() if (tmp_path / "README.md").exists() else True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dequantize_follows_the_dtype_of_the_model_or_the_argument(dtype, load):
    for model in (load("llama", "int4", dtype=dtype).dequantize(), load("llama", "int4").dequantize(dtype=dtype)):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert outputs(model).dtype == dtype


def test_dequantize_to_float64_is_refused_and_leaves_the_model_as_it_was(load):
    model = load("llama", "int8")
    expected = outputs(model)
    with pytest.raises(ConfigError, match="float64"):
        model.dequantize(dtype=torch.float64)
    assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dequantized_model_trains_and_quantizes_again(name, load):
    model = load(name, "int8").dequantize()
    linears = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D | nn.Embedding)]
    assert all(parameter.requires_grad for module in linears for parameter in module.parameters())
    before = outputs(model)
    again = hf_quant.quantize(model, "int8", progress=False)
    # Codes of the same grid: rounding what is already rounded moves nothing but the activations.
    assert error(outputs(again), before) < 0.06


@pytest.mark.parametrize("name", FAMILIES)
def test_no_setting_of_the_config_tells_of_it_while_it_is_quantized_or_after(name):
    model, reference = tiny_model(name), vars(tiny_model(name).config)
    hf_quant.quantize(model, "int8", progress=False)
    changed = {key: value for key, value in vars(model.config).items() if reference.get(key) != value}
    assert set(changed) == {"quantization_config", "_is_quantized"}
    assert all(getattr(each.config, "_is_quantized", True) for each in model.modules() if hasattr(each, "config"))
    model.dequantize()
    assert {key: value for key, value in vars(model.config).items() if reference.get(key) != value} in (
        {},
        {"dtype": torch.float32},
    )
    assert "_is_quantized" not in vars(model.config)


def test_complex_buffers_keep_their_imaginary_part():
    model = tiny_model("llama")
    turns = torch.polar(torch.ones(4), torch.arange(4.0))
    model.model.register_buffer("turns", turns.clone(), persistent=False)
    hf_quant.quantize(model, "int8", progress=False)
    assert torch.equal(model.dequantize(torch.bfloat16).model.turns, turns)
