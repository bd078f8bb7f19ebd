"""Checkpoints by path: what a wrong one gives."""

import pytest

from hf_quant.errors import CheckpointError, ConfigError
from hf_quant.workflows.checkpoints import load_model, load_tokenizer
from tests.integration.tiny import tiny_model


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "~/nowhere", "models/of/nobody"])
def test_a_directory_that_is_not_there_is_called_one(source):
    with pytest.raises(ConfigError, match="no directory"):
        load_model(source)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="no directory"):
        load_model(str(tmp_path / "model.safetensors"))


def test_an_unknown_dtype_names_the_nearest():
    with pytest.raises(ConfigError, match="float32"):
        load_model("user/name", dtype="flot32")


def test_a_folder_without_tokenizer_has_none(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)) is None


def test_a_config_of_no_model_is_called_that(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="of no model that Transformers knows"):
        load_model(str(tmp_path))


def test_a_damaged_file_of_weights_is_called_that(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(str(tmp_path))
