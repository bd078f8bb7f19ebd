"""The size of a checkpoint is known to the byte from its config alone."""

import pytest
import torch
from transformers import AutoConfig, BertModel

import hf_quant
from hf_quant.demo.packaged import minilm_directory
from hf_quant.errors import ConfigError, PlanError
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.workflows.estimate import estimate_file_bytes
from tests.integration.tiny import CHECKPOINTS, tiny_config, tiny_model


@pytest.mark.parametrize("preset", [None, "int8", "int4", "w4a16", "int16", "bf16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_estimate_is_the_size_of_the_files_that_are_written(name, preset, tmp_path):
    model = tiny_model(name)
    model_class = type(model)
    if preset is not None:
        model = hf_quant.quantize(model, preset, progress=False)
    model.save_pretrained(tmp_path)
    assert estimate_file_bytes(model_class, tiny_config(name), preset) == directory_bytes(tmp_path)


@pytest.mark.parametrize("preset", [None, "int8", "int4"])
def test_it_is_so_for_a_real_model_quantized_while_it_is_loaded(preset, tmp_path):
    config = None if preset is None else hf_quant.HfQuantConfig(preset)
    model = BertModel.from_pretrained(minilm_directory(), quantization_config=config, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    estimate = estimate_file_bytes(BertModel, AutoConfig.from_pretrained(minilm_directory()), preset)
    assert estimate == directory_bytes(tmp_path)


def test_it_is_so_for_files_in_parts_and_other_dtypes(tmp_path):
    model = tiny_model("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    estimate = estimate_file_bytes(type(model), tiny_config("llama"), dtype=torch.bfloat16, max_shard="50KB")
    assert estimate == directory_bytes(tmp_path)


def test_exceptions_of_a_config_count(tmp_path):
    config = hf_quant.HfQuantConfig("int4", overrides={"*.down_proj": "int8"}, modules_to_not_convert=["lm_head"])
    model = tiny_model("llama-untied")
    model_class = type(model)
    hf_quant.quantize(model, config, progress=False).save_pretrained(tmp_path)
    assert estimate_file_bytes(model_class, tiny_config("llama-untied"), config) == directory_bytes(tmp_path)


def test_a_preset_that_is_none_and_a_plan_that_does_not_fit_are_typed_errors():
    model_class, config = type(tiny_model("bert")), tiny_config("bert")
    with pytest.raises(ConfigError, match="did you mean"):
        estimate_file_bytes(model_class, config, "int5")
    with pytest.raises(PlanError):
        estimate_file_bytes(model_class, config, hf_quant.HfQuantConfig("int8", overrides={"nothing.*": "int4"}))
