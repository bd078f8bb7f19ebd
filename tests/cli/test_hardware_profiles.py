"""``hf-quant hardware`` with profiles and measurements, end to end."""

import json
import re

import pytest
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.hardware.profiles import PROFILES
from hf_quant.planner.cost import measure
from hf_quant.planner.cost.table_file import cached_table, read_table
from hf_quant.workflows import measure_hardware

TINY = measure.Effort(shapes=((64, 64), (64, 128)), tokens=(1, 8), rounds=2, turn=1e-4, memory=1 << 16, patience=0.5)


def run(*arguments):
    return CliRunner().invoke(app, ["hardware", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_profile_is_listed():
    result = run("--list")
    assert result.exit_code == 0
    assert all(name in result.output for name in PROFILES)


def test_a_profile_is_shown_with_the_source_of_each_figure(cache):
    result = run("--profile", "raspberry-pi-5")
    assert result.exit_code == 0
    assert "17.1 GB/s" in result.output and "published: Raspberry Pi Ltd" in result.output
    assert "not known" in result.output


def test_an_unknown_profile_is_a_typed_error_with_the_nearest():
    assert "did you mean 'apple-m2'" in str(run("--profile", "appel-m2").exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measure", "--list"), "one of"),
        (("--profile", "host", "--list"), "one of"),
        (("--quick",), "go with --measure"),
        (("--output", "kernels.json"), "go with --measure"),
    ],
)
def test_options_that_do_not_go_together_are_typed_errors(arguments, message):
    assert message in str(run(*arguments).exception)


@pytest.mark.slow
def test_measuring_writes_the_file_fills_the_cache_and_marks_what_is_slow(cache, tmp_path, monkeypatch):
    # As little as can be measured: what is timed is real.
    monkeypatch.setattr(measure_hardware, "QUICK", TINY)
    output = tmp_path / "kernels.json"
    result = run("--measure", "--quick", "--output", output)
    assert result.exit_code == 0, result.exception
    table = read_table(output)
    assert cached_table() == table
    assert measure_hardware.kernel_table(progress=False) == table, "read from the cache, not measured again"
    assert {(o.family, o.kind) for o in table.overheads} == {
        (family, kind) for family in ("llama", "gpt2", "bert") for kind in ("float", "fused", "mixed")
    }
    assert json.loads(output.read_text())["table_version"] == 4
    slower = any(
        cell.scheme is not None and cell.milliseconds > plain.milliseconds
        for cell in table.cells
        for plain in table.cells
        if plain.scheme is None
        and (plain.inputs, plain.outputs, plain.tokens) == (cell.inputs, cell.outputs, cell.tokens)
    )
    assert bool(re.search(r"\d!", result.output)) == slower
    shown = run("--profile", "host")
    assert "measured: hf-quant hardware --measure" in " ".join(shown.output.split())
