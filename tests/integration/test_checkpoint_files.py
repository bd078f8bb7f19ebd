"""Files a checkpoint may consist of, and ways to hand over the config."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, ConfigError
from tests.integration.tiny import FAMILIES, auto_class, outputs, tiny_model


def shards(directory):
    return len(list(directory.glob("*.safetensors")))


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float_shards_quantize_like_one_file(name, preset, load, tmp_path):
    tiny_model(name).save_pretrained(tmp_path, max_shard_size="40KB")
    assert shards(tmp_path) > 2
    model = auto_class(name).from_pretrained(tmp_path, quantization_config=HfQuantConfig(preset)).eval()
    assert torch.equal(outputs(model), outputs(load(name, preset)))


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_quantized_shards_load_like_one_file(name, preset, load, tmp_path):
    model = load(name, preset)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert shards(tmp_path) > 2
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), outputs(model))


def test_saving_one_file_over_shards_leaves_no_stale_shard(load, tmp_path):
    load("llama", "int8").save_pretrained(tmp_path, max_shard_size="8KB")
    model = load("llama", "int4")
    model.save_pretrained(tmp_path)
    assert shards(tmp_path) == 1
    assert not (tmp_path / "model.safetensors.index.json").exists()
    assert torch.equal(outputs(auto_class("llama").from_pretrained(tmp_path).eval()), outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_pickled_weights_are_refused(name, tmp_path):
    model = tiny_model(name)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors only"):
        auto_class(name).from_pretrained(tmp_path, quantization_config=HfQuantConfig("int8"), use_safetensors=False)


def test_the_config_may_be_a_dict(checkpoints, load):
    config = {"quant_method": "hf_quant", "preset": "int4", "modules_to_not_convert": ["down_proj"]}
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"], quantization_config=config).eval()
    expected = load("llama", HfQuantConfig("int4", modules_to_not_convert=["down_proj"]))
    assert torch.equal(outputs(model), outputs(expected))


def test_one_config_object_serves_two_models(load):
    config = HfQuantConfig("int4")
    before = copy.deepcopy(config)
    first, second = load("bert", config), load("gpt2", config)
    assert config == before
    assert torch.equal(outputs(first), outputs(load("bert", "int4")))
    assert torch.equal(outputs(second), outputs(load("gpt2", "int4")))
    in_memory = hf_quant.quantize(tiny_model("llama"), config, progress=False)
    assert config == before
    assert torch.equal(outputs(in_memory), outputs(load("llama", "int4")))


def test_a_config_for_a_quantized_checkpoint_is_ignored_with_a_warning(quantized_checkpoints, load):
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        model = AutoModelForCausalLM.from_pretrained(
            quantized_checkpoints["llama", "int8"], quantization_config=HfQuantConfig("int4")
        ).eval()
    assert model.config.quantization_config.preset == "int8"
    assert torch.equal(outputs(model), outputs(load("llama", "int8")))


def test_float_weights_under_a_quantized_config_are_refused(checkpoints, quantized_checkpoints, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((checkpoints["llama"] / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_bytes((quantized_checkpoints["llama", "int8"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="do not belong together"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_weights_of_another_preset_are_refused(quantized_checkpoints, tmp_path):
    weights = quantized_checkpoints["gpt2", "int4"] / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "config.json").write_bytes((quantized_checkpoints["gpt2", "int8"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="do not belong together"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"presett": "int8"}, "presett"),
        ({"format_version": 99}, "newer than this package"),
        ({"format_version": "1"}, "format_version must be"),
        ({"plan": None}, "plan"),
        ({"plan": {"format_version": 1, "schemes": {}, "modules": {"model.layers.0.mlp.up_proj": "W2"}}}, "W2"),
        ({"plan": {"format_version": 99, "schemes": {}, "modules": {}}}, "newer than this package"),
        ({"plan": {"format_version": 1, "schemes": {}, "modules": {}, "extra": 1}}, "extra"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_config_json_that_is_not_understood_is_refused(change, message, quantized_checkpoints, tmp_path):
    source = quantized_checkpoints["llama", "int8"]
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_weights_handed_over_as_a_state_dict_are_refused():
    # Names and shapes are checked in the files, before anything is built; a dict would go unchecked.
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match=r"hf_quant\.quantize"):
        type(model).from_pretrained(
            None, config=model.config, state_dict=model.state_dict(), quantization_config=HfQuantConfig("int8")
        )


def test_float64_is_refused(load, quantized_checkpoints):
    with pytest.raises(ConfigError, match="float64"):
        load("llama", "int8", dtype=torch.float64)
    with pytest.raises(ConfigError, match="float64"):
        AutoModelForCausalLM.from_pretrained(quantized_checkpoints["llama", "int8"], dtype=torch.float64)
    with pytest.raises(ConfigError, match="float64"):
        hf_quant.quantize(tiny_model("llama").double(), "int8")


def test_a_quantized_checkpoint_loads_in_any_dtype(quantized_checkpoints, float_outputs):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = AutoModelForCausalLM.from_pretrained(quantized_checkpoints["llama", "int8"], dtype=dtype).eval()
        assert outputs(model).dtype == dtype
        assert (outputs(model).float() - float_outputs["llama"]).norm() < 0.09 * float_outputs["llama"].norm()
