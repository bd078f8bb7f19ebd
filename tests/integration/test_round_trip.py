"""Every preset, family and dtype: loaded on the fly, saved, reloaded, copied, and quantized in memory."""

import copy
import pickle

import pytest
import torch

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.config.presets import PRESETS
from hf_quant.modules.state import stored_state
from tests.integration.calibration_data import preset_config
from tests.integration.tiny import CHECKPOINTS, FAMILIES, auto_class, error, outputs, saved_tensors, tiny_model

DTYPES = {torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Dtype of the model to the relative error that it adds by itself."""

TOLERANCE = {
    "fp32": 0.0, "fp16": 2e-3, "bf16": 3e-2, "int16": 2e-3, "int8": 0.06, "int8-static": 0.08, "w8a16": 0.05,
    "int4": 0.4, "w4a16": 0.4,
}  # fmt: skip
"""Preset to the error of rounding: a step of 8 bits is 1/127 of the largest of 64 weights, one of 4 bits 2/15, and
two layers of random weights amplify it about fivefold. What kernels add is measured against the reference below."""

KERNELS = {"int16": 1e-4, "int8": 2e-3, "int8-static": 2e-3, "w8a16": 2e-2, "int4": 3e-2, "w4a16": 3e-2}
"""Preset to the error that its fastest kernel may add: where the scheme leaves activations float, or has 4 bits, it
computes in bfloat16."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_preset_stays_near_float_and_reloads_bit_for_bit(name, preset, dtype, load, float_outputs, tmp_path):
    model = load(name, preset, dtype=dtype)
    logits = outputs(model)
    assert logits.dtype == dtype
    assert error(logits, float_outputs[name]) <= TOLERANCE[preset] + DTYPES[dtype]

    model.save_pretrained(tmp_path)
    reloaded = auto_class(name).from_pretrained(tmp_path).eval()
    found = outputs(reloaded)
    assert found.dtype == dtype and torch.equal(found, logits)
    assert reloaded.config.quantization_config == model.config.quantization_config

    assert torch.equal(outputs(copy.deepcopy(model)), logits)
    assert torch.equal(outputs(model), logits), "copying and saving leave the model as it was"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_quantizing_in_memory_gives_what_loading_gives(name, preset, load, tmp_path):
    model = hf_quant.quantize(tiny_model(name), preset_config(preset), progress=False)
    other = load(name, preset)
    assert torch.equal(outputs(model), outputs(other))
    model.save_pretrained(tmp_path / "memory")
    other.save_pretrained(tmp_path / "loaded")
    memory, loaded = saved_tensors(tmp_path / "memory"), saved_tensors(tmp_path / "loaded")
    assert memory.keys() == loaded.keys()
    assert all(torch.equal(memory[key], loaded[key]) for key in memory)


@pytest.mark.parametrize("preset", KERNELS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_fastest_kernel_agrees_with_the_reference(name, preset, load, monkeypatch):
    logits = outputs(load(name, preset))
    monkeypatch.setenv("HF_QUANT_KERNEL", "reference")
    assert error(logits, outputs(load(name, preset))) <= KERNELS[preset]


def test_saving_a_model_that_nothing_else_holds(load, tmp_path):
    load("bert").save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class("bert").from_pretrained(tmp_path)), outputs(load("bert")))


@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pickled_model_gives_the_same_logits(name, preset, load):
    model = load(name, preset)
    assert torch.equal(outputs(pickle.loads(pickle.dumps(model))), outputs(model))


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_second_round_trip_writes_the_same_file(name, preset, quantized_checkpoints, tmp_path):
    first = quantized_checkpoints[name, preset]
    model = auto_class(name).from_pretrained(first)
    model.save_pretrained(tmp_path)
    before, after = saved_tensors(first), saved_tensors(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (first / "config.json").read_text() == (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_and_int4_files_are_as_small_as_their_codes(name, checkpoints, quantized_checkpoints):
    size = {
        preset: (quantized_checkpoints[name, preset] / "model.safetensors").stat().st_size
        for preset in ("int8", "int4")
    }
    whole = (checkpoints[name] / "model.safetensors").stat().st_size
    # A quarter and an eighth, plus what stays float, scales, and the headers that loom large in a tiny file.
    assert size["int4"] < size["int8"] < 0.4 * whole


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_state_dict_round_trip_restores_the_logits(preset, load):
    model, other = load("llama", preset), load("llama", preset)
    stored = stored_state(model, model.state_dict())
    doubled = {name: tensor * 2 if "scale" in name else tensor for name, tensor in stored.items()}
    other.load_state_dict(doubled)
    assert not torch.equal(outputs(other), outputs(model))
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other), outputs(model))


def test_a_tied_head_is_not_missed_in_a_state_dict_as_on_disk_but_its_table_is(load):
    model = load("llama", "int8")
    stored = stored_state(model, model.state_dict())
    model.load_state_dict(stored)
    del stored["model.embed_tokens.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"model\.embed_tokens\.weight\""):
        model.load_state_dict(stored)


def test_quantizing_twice_is_refused(load):
    with pytest.raises(hf_quant.errors.UnsupportedModel, match="quantized already"):
        hf_quant.quantize(load("bert"), "int8")


def test_a_scheme_of_three_bits_round_trips(load, tmp_path):
    weight = hf_quant.TensorScheme(bits=3, symmetric=False, granularity="group", group_size=32)
    model = load("llama", HfQuantConfig(scheme=hf_quant.Scheme(weight)))
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class("llama").from_pretrained(tmp_path)), outputs(model))
