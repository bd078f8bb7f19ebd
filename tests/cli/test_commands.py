import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_quant.cli.main import app, main
from hf_quant.config.presets import PRESETS
from hf_quant.kernels.native import library
from hf_quant.workflows.hardware import OPS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128
    )
    folder = tmp_path_factory.mktemp("float")
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def hf_quant(*arguments):
    """The command in this process, which has imported everything already."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(output),
        redirect_stderr(errors),
        patch.object(sys, "argv", ["hf-quant", *map(str, arguments)]),
        patch.dict(os.environ, {"COLUMNS": "120"}),
    ):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(sys.argv, code, output.getvalue(), errors.getvalue())


def hf_quant_alone(*arguments):
    """The command in a process of its own, which reads the environment anew."""
    return subprocess.run(
        [sys.executable, "-c", "from hf_quant.cli.main import main; main()", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_quantize_saves_a_checkpoint_that_inspect_reads(checkpoint, tmp_path):
    target = tmp_path / "int8"
    made = hf_quant_alone("quantize", checkpoint, "int8", "--output", target, "--keep-float", "classifier")
    assert made.returncode == 0, made.stderr
    assert "listed in modules_to_not_convert" in made.stdout
    seen = hf_quant("inspect", target, "--json")
    assert seen.returncode == 0, seen.stderr
    rows = {row["module"]: row for row in json.loads(seen.stdout)["rows"]}
    assert rows["bert.encoder.layer.0.intermediate.dense"]["scheme"].startswith("W8A8")
    assert rows["classifier"]["scheme"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int9", "--output", "x"), "did you mean"),
        (("int8",), "--output DIRECTORY"),
        (("int8", "--output", "x", "--override", "int4"), "PATTERN=PRESET"),
        (("int8", "--output", "x", "--override", "nothing.*=int4"), "nearest:"),
        (("int8", "--output", "x", "--dtype", "float63"), "dtype"),
    ],
)
def test_wrong_arguments_end_in_one_line_that_names_the_fix(checkpoint, arguments, message):
    result = hf_quant("quantize", checkpoint, *arguments)
    assert result.returncode == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_missing_model_ends_in_one_line(tmp_path):
    result = hf_quant_alone("inspect", tmp_path / "nothing-here")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "nothing-here" in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_every_command_has_help_with_examples(command):
    result = hf_quant(command, "--help")
    assert result.returncode == 0
    assert f"hf-quant {command}" in result.stdout


def cells(table, *columns):
    """Rows of a printed table that has these columns."""
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in table.splitlines()]
    start = rows.index(list(columns))
    return [row for row in rows[start:] if len(row) == len(columns)][1:]


def test_hardware_names_the_kernel_of_every_preset_and_op():
    result = hf_quant("hardware")
    assert result.returncode == 0, result.stderr
    kernels = {row[0]: row[2] for row in cells(result.stdout, "preset", "linears", "kernel", "passed over") if row[0]}
    assert list(kernels) == list(PRESETS) and all(kernels.values())
    assert {row[0] for row in cells(result.stdout, "op", "for", "in use")} >= set(OPS)


@pytest.mark.skipif(library.load() is None, reason="installed without a compiler")
@pytest.mark.parametrize("isa", library.runnable_isas())
def test_hardware_names_the_instruction_set_in_use(isa, monkeypatch):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    result = hf_quant_alone("hardware")
    assert f"Native kernels for {isa} " in result.stdout
    states = {row[0]: row[1] for row in cells(result.stdout, "instruction set", "here", "needs")}
    assert [name for name, state in states.items() if state == "in use"] == [isa]
    assert {name for name, state in states.items() if state == "runs"} == {*library.runnable_isas()} - {isa}


def test_hardware_says_why_there_are_no_native_kernels(monkeypatch):
    monkeypatch.setenv(library.ISA_VARIABLE, "none")
    result = hf_quant_alone("hardware")
    assert "which HF_QUANT_ISA=none turns off" in " ".join(result.stdout.split())


def test_a_wrong_instruction_set_ends_in_one_line_that_names_the_right_ones(monkeypatch):
    if library.load() is None:
        pytest.skip("installed without a compiler")
    monkeypatch.setenv(library.ISA_VARIABLE, "avx3")
    result = hf_quant_alone("hardware")
    assert result.returncode == 1 and "did you mean 'avx2'" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
