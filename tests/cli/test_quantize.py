"""Mistakes that end before anything is loaded, saved or lost."""

import json

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.config.plan import Plan
from hf_quant.errors import ConfigError, SaveError, UnsupportedModel
from tests.integration.tiny import tiny_model


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "float"
    tiny_model("bert").save_pretrained(folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_the_float_checkpoint_is_not_saved_over(checkpoint, tmp_path, monkeypatch):
    before = load_file(checkpoint / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    for output in (checkpoint, "float", "./float/../float"):
        found = run(checkpoint, "int4", "-o", output).exception
        assert isinstance(found, ConfigError)
        assert "would be lost" in str(found)
    assert load_file(checkpoint / "model.safetensors").keys() == before.keys()


def test_a_file_is_no_directory_to_save_to(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    found = run(checkpoint, "int4", "-o", tmp_path / "notes.txt").exception
    assert isinstance(found, ConfigError)
    assert "is a file" in str(found)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_is_quantized_already_is_not_passed_off_as_something_else(checkpoint, tmp_path):
    assert run(checkpoint, "int8", "-o", tmp_path / "int8").exit_code == 0
    found = run(tmp_path / "int8", "int4", "-o", tmp_path / "int4").exception
    assert isinstance(found, UnsupportedModel)
    assert "give the float checkpoint" in str(found)
    assert not (tmp_path / "int4").exists()


@pytest.mark.parametrize("source", [["int8"], ["--recipe", "RECIPE"]])
def test_rotations_can_be_left_out(source, checkpoint, tmp_path):
    (tmp_path / "recipe.yaml").write_text("preset: int8\n")
    source = [str(tmp_path / "recipe.yaml") if word == "RECIPE" else word for word in source]
    for arguments, rotations in (([], {64}), (["--rotation", "0"], {None}), (["--rotation", "32"], {32})):
        there = tmp_path / f"there{len(list(tmp_path.iterdir()))}"
        assert run(checkpoint, *source, "-o", there, *arguments).exit_code == 0
        plan = Plan.from_dict(json.loads((there / "config.json").read_text())["quantization_config"]["plan"])
        assert {scheme.weight.rotation for scheme in plan.modules.values() if scheme is not None} == rotations


def test_a_module_to_keep_float_that_is_not_there_names_the_nearest(checkpoint, tmp_path):
    found = run(checkpoint, "int8", "-o", tmp_path / "int8", "--keep-float", "cls.predictions.decodr").exception
    assert isinstance(found, ConfigError)
    assert "cls.predictions.decoder" in str(found)
    assert not (tmp_path / "int8").exists()


def test_a_hub_that_cannot_be_reached_is_said_with_where_the_result_is(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = run(checkpoint, "int8", "-o", tmp_path / "int8", "--push-to-hub", "user/name").exception
    assert isinstance(found, SaveError)
    assert str(tmp_path / "int8") in str(found)
    assert (tmp_path / "int8" / "model.safetensors").is_file()


def test_a_tokenizer_is_copied_where_there_is_one_and_none_is_made_up(checkpoint, tmp_path):
    assert run(checkpoint, "int8", "-o", tmp_path / "without").exit_code == 0
    assert not list((tmp_path / "without").glob("tokenizer*"))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(checkpoint)
    assert run(checkpoint, "int8", "-o", tmp_path / "with").exit_code == 0
    assert (tmp_path / "with" / "tokenizer.json").is_file()
