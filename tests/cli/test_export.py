import json

import pytest
from typer.testing import CliRunner

import hf_quant
from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, ExportError, UnknownName
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.tiny import tiny_model

run = CliRunner().invoke


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    place = tmp_path_factory.mktemp("checkpoints")
    for name, config in (("plain", HfQuantConfig("w8a16", rotation=0)), ("rotated", HfQuantConfig("int8"))):
        hf_quant.quantize(tiny_model("llama-untied"), config).save_pretrained(place / name)
    return place


def test_a_checkpoint_is_exported_and_the_report_printed(checkpoints, tmp_path):
    there = tmp_path / "there"
    result = run(app, ["export", str(checkpoints / "plain"), "compressed-tensors", "-o", str(there), "--no-verify"])
    assert result.exit_code == 0, result.output
    assert "15 exact, 1 in a wider container" in result.output and f"Exported to {there}" in result.output
    assert (there / "config.json").is_file()


def test_the_manifest_can_be_printed_and_options_be_given(checkpoints, tmp_path):
    arguments = ["export", str(checkpoints / "plain"), "vllm", "-o", str(tmp_path / "there"), "--json"]
    result = run(app, [*arguments, "--option", "max_shard_size=60KB"])
    manifest = json.loads(result.stdout)
    assert manifest["options"] == {"max_shard_size": "60KB"} and "model.safetensors.index.json" in manifest["files"]


def test_a_report_alone_writes_nothing_and_tells_by_its_exit_status(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = run(app, ["export", str(checkpoints / "plain"), "gguf", "--report-only"])
    bad = run(app, ["export", str(checkpoints / "rotated"), "gguf", "--report-only", "--json"])
    assert good.exit_code == 0 and "gguf (llama.cpp): 16 by an equivalent computation" in good.output
    assert bad.exit_code == 1 and json.loads(bad.stdout)["modules"] == {"refused": 16}
    assert not any(tmp_path.iterdir())


def test_a_refusal_is_an_error_unless_it_is_accepted(checkpoints, tmp_path):
    arguments = ["export", str(checkpoints / "rotated"), "compressed-tensors", "-o", str(tmp_path / "there")]
    result = run(app, arguments)
    assert isinstance(result.exception, ExportError) and "rotation=0" in str(result.exception)
    assert run(app, [*arguments, "--accept", "rotation"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["nowhere-known"], UnknownName, "Known:"),
        (["compressed-tensors"], ConfigError, "--output"),
        (["onxx", "--report-only"], UnknownName, "did you mean 'onnx'"),
    ],
)
def test_wrong_arguments_are_told_before_the_model_is_loaded(arguments, error, words, tmp_path):
    output = ["-o", str(tmp_path / "there")] if error is UnknownName else []
    result = run(app, ["export", str(tmp_path / "no-model"), *arguments, *output])
    assert isinstance(result.exception, error) and words in str(result.exception)
