import pytest
from typer.testing import CliRunner

import hf_quant
from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, UnknownName
from tests.integration.tiny import tiny_model

run = CliRunner().invoke


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("source")
    tiny_model("llama-untied").save_pretrained(place)
    return place


def test_a_checkpoint_is_optimized_for_a_machine_with_the_reasons_printed(source, tmp_path):
    there = tmp_path / "there"
    arguments = ["optimize", str(source), "--hardware", "raspberry-pi-5", "--target", "memory", "-o", str(there)]
    result = run(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Raspberry Pi 5" in result.output and "Asked for is memory: the fewest bits" in result.output
    assert f"Saved to {there}" in result.output and (there / "config.json").is_file()


def test_the_export_can_be_chosen(source, tmp_path):
    there = tmp_path / "there"
    arguments = ["optimize", str(source), "--hardware", "host", "--export", "vllm", "--no-verify", "-o", str(there)]
    result = run(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"Exported to {there}" in result.output and (there / "hf_quant_export.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--hardware", "raspberry-pi"], UnknownName, "raspberry-pi-5"),
        (["--hardware", "mobile", "--export", "onxx"], ConfigError, "did you mean 'onnx'"),
        (["--hardware", "host", "--target", "size"], ConfigError, "Known: speed, memory, accuracy"),
        (["--hardware", "host"], ConfigError, "no directory"),
    ],
)
def test_wrong_arguments_are_told(arguments, error, words, tmp_path):
    result = run(app, ["optimize", str(tmp_path / "no-model"), *arguments, "-o", str(tmp_path / "there")])
    assert isinstance(result.exception, error) and words in str(result.exception)
    assert not (tmp_path / "there").exists()


def test_what_the_command_does_python_does():
    assert hf_quant.deploy(tiny_model("bert"), "host", progress=False).advice.fits
