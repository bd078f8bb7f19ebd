"""Commands in the command line of Optimum: the built wheel beside the real package, as it is installed."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.tiny import tiny_model

ROOT = Path(__file__).parents[1]
FILE = "optimum/commands/register/register_hf_quant.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with what the wheel brings to Optimum; without the native library, which takes minutes."""
    pytest.importorskip("optimum.commands.optimum_cli", reason="pip install optimum")
    place = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "-C", "wheel.cmake=false", "-w", str(place)]
    command = [sys.executable, "-m", "pip", "--python", sys.executable, "wheel", str(ROOT), *options]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert [name for name in files.namelist() if name.startswith("optimum/")] == [FILE]
        files.extract(FILE, place / "installed")
    return place / "installed"


@pytest.fixture
def optimum_cli(installed):
    def run(*arguments):
        command = [sys.executable, "-W", "ignore", "-m", "optimum.commands.optimum_cli", *map(str, arguments)]
        paths = [str(installed), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "160"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


@pytest.mark.slow
def test_a_model_is_quantized_and_exported(optimum_cli, tmp_path):
    tiny_model("llama-untied").save_pretrained(tmp_path / "float")
    overrides = ["--override", "lm_head=w8a16", "--no-check"]
    there = ["-o", tmp_path / "quantized"]
    done = optimum_cli("hf-quant", "quantize", tmp_path / "float", "w8a16", *there, *overrides)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "hf_quant"
    refused = ["--accept", "rotation", "--no-verify", "-o", tmp_path / "ct"]
    done = optimum_cli("export", "hf-quant", tmp_path / "quantized", "compressed-tensors", *refused)
    assert done.returncode == 0, done.stderr
    assert f"Exported to {tmp_path / 'ct'}" in done.stdout and (tmp_path / "ct" / "hf_quant_export.json").is_file()


@pytest.mark.slow
def test_help_and_errors_are_those_of_the_command(optimum_cli, tmp_path):
    shown = optimum_cli("export", "hf-quant", "--help")
    assert shown.returncode == 0 and "hf-quant export" in shown.stdout and "--report-only" in shown.stdout
    wrong = optimum_cli("export", "hf-quant", tmp_path, "onxx", "-o", tmp_path / "there")
    assert wrong.returncode == 1 and "did you mean 'onnx'" in wrong.stderr and "Traceback" not in wrong.stderr
