"""Device maps: where modules go must not change what they compute."""

import copy

import pytest
import torch

from hf_quant import HfQuantConfig
from hf_quant.errors import ConfigError
from tests.integration.tiny import FAMILIES, auto_class, outputs

LAYERS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama": "model.layers"}
REST = {
    "bert": ["bert.embeddings", "cls"],
    "gpt2": ["transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"],
    "llama": ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"],
}


def device_map(name, *layers):
    """The rest on CPU and each layer on the device given for it."""
    return {**dict.fromkeys(REST[name], "cpu"), **{f"{LAYERS[name]}.{i}": device for i, device in enumerate(layers)}}


@pytest.fixture(params=["int8", "int4", "bf16"])
def preset(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def saved(name, preset, load, tmp_path):
    load(name, preset).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("where", ["auto", "cpu", {"": "cpu"}, "sequential"], ids=str)
def test_every_device_map_gives_the_same_logits(name, preset, where, load, saved):
    expected = outputs(load(name, preset))
    assert torch.equal(outputs(load(name, preset, device_map=where)), expected)
    assert torch.equal(outputs(auto_class(name).from_pretrained(saved, device_map=where).eval()), expected)


def test_a_map_of_modules_gives_the_same_logits(name, preset, load, saved):
    expected, where = outputs(load(name, preset)), device_map(name, "cpu", "cpu")
    assert torch.equal(outputs(load(name, preset, device_map=where)), expected)
    assert torch.equal(outputs(auto_class(name).from_pretrained(saved, device_map=where).eval()), expected)


@pytest.mark.parametrize("layers", [("cpu", "disk"), ("disk", "disk")], ids=str)
def test_layers_on_disk_compute_what_the_reference_computes(name, preset, layers, saved, load, tmp_path, monkeypatch):
    # Weights that visit from disk stay in the neutral layout, so exact kernels agree to the last bit.
    monkeypatch.setenv("HF_QUANT_KERNEL", "aten_dequantize")
    expected = outputs(load(name, preset))
    where = device_map(name, *layers)
    model = auto_class(name).from_pretrained(saved, device_map=where, offload_folder=tmp_path / "disk").eval()
    assert torch.equal(outputs(model), expected)
    assert torch.equal(outputs(model), expected), "a second visit reads the same codes"


def test_layers_on_disk_stay_near_the_fastest_kernels(name, preset, saved, load, tmp_path):
    where = device_map(name, "cpu", "disk")
    model = auto_class(name).from_pretrained(saved, device_map=where, offload_folder=tmp_path / "disk").eval()
    expected = outputs(load(name, preset))
    assert (outputs(model) - expected).norm() < 3e-2 * expected.norm()


def test_layers_left_in_memory_of_a_disk_map_are_laid_out_for_their_kernel(load, tmp_path):
    load("llama", "int4").save_pretrained(tmp_path / "saved")
    where = device_map("llama", "cpu", "disk")
    model = auto_class("llama").from_pretrained(tmp_path / "saved", device_map=where, offload_folder=tmp_path / "disk")
    kernels = [layer.mlp.up_proj.kernel for layer in model.model.layers]
    assert kernels[0] == load("llama", "int4").model.layers[0].mlp.up_proj.kernel
    assert kernels[1] is None


@pytest.mark.parametrize("where", [("cpu", "disk"), ("disk", "disk")], ids=str)
def test_quantizing_while_offloading_to_disk_is_refused(where, load, tmp_path):
    with pytest.raises(ConfigError, match="cannot be quantized while they are offloaded"):
        load("llama", "int8", device_map=device_map("llama", *where), offload_folder=tmp_path)


def test_an_automatic_map_that_spills_to_disk_is_refused_on_the_fly(load, tmp_path):
    with pytest.raises(ConfigError, match="cannot be quantized while they are offloaded"):
        load("llama-untied", "int8", device_map="auto", max_memory={"cpu": "40KB"}, offload_folder=tmp_path)


def test_a_dispatched_model_can_be_saved_again(load, tmp_path):
    model = load("gpt2", HfQuantConfig("int4"), device_map="auto")
    expected = outputs(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class("gpt2").from_pretrained(tmp_path).eval()), expected)
    assert torch.equal(outputs(copy.deepcopy(model)), expected)


def test_a_model_partly_on_disk_is_saved_whole(load, tmp_path):
    model = load("llama", "int4")
    expected = outputs(model)
    model.save_pretrained(tmp_path / "saved")
    where = device_map("llama", "cpu", "disk")
    model = auto_class("llama").from_pretrained(tmp_path / "saved", device_map=where, offload_folder=tmp_path / "disk")
    with pytest.warns(UserWarning, match="offloaded modules"):
        model.save_pretrained(tmp_path / "again")
    assert torch.equal(outputs(auto_class("llama").from_pretrained(tmp_path / "again").eval()), expected)
