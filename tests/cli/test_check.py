import json

import pytest
from safetensors.torch import load_file, save_file

import hf_quant as package
from tests.cli.test_commands import hf_quant
from tests.integration.tiny import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def checkpoint(folder):
    tiny_model("bert").save_pretrained(folder / "float")
    return folder / "float"


def test_quantize_checks_its_result_unless_told_not_to(checkpoint, folder):
    made = hf_quant("quantize", checkpoint, "int8", "--output", folder / "int8")
    assert made.returncode == 0, made.stderr
    assert "all right" in made.stdout
    made = hf_quant("quantize", checkpoint, "int8", "--output", folder / "unchecked", "--no-check")
    assert made.returncode == 0, made.stderr
    assert "all right" not in made.stdout


def test_check_answers_in_words_and_as_json(folder, checkpoint):
    package.quantize(tiny_model("bert"), "w4a16", progress=False).save_pretrained(folder / "w4a16")
    said = hf_quant("check", folder / "w4a16")
    assert said.returncode == 0, said.stderr
    assert "all right" in said.stdout
    values = json.loads(hf_quant("check", folder / "w4a16", "--json").stdout)
    assert values["is_right"]
    assert values["never_called"] == []


def test_a_wrong_model_ends_with_status_1(folder):
    package.quantize(tiny_model("bert"), "w4a16", progress=False).save_pretrained(folder / "broken")
    tensors = load_file(folder / "broken" / "model.safetensors")
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    tensors[name][0] = float("inf")  # all outputs are NaN
    save_file(tensors, folder / "broken" / "model.safetensors", metadata={"format": "pt"})
    result = hf_quant("check", folder / "broken")
    assert result.returncode == 1


def test_a_float_checkpoint_is_refused_in_one_line(checkpoint):
    result = hf_quant("check", checkpoint)
    assert result.returncode == 1
    assert "no quantized modules" in result.stderr
