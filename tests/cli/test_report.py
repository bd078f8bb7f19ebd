"""``hf-quant report``: reports of several models become one."""

import pytest
from typer.testing import CliRunner

import hf_quant
from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, EvaluationError
from tests.reporting.samples import benchmark_report, drop_report


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    parts = {"int8": drop_report(), "int8-speed": benchmark_report(), "int4": drop_report("models/minilm-int4", 0.015)}
    return [hf_quant.write_report(tmp_path / f"{name}.json", part) for name, part in parts.items()]


def test_files_become_one_page_that_knows_all_models(files, tmp_path):
    target = tmp_path / "all.html"
    result = report(*files, "--output", target, "-o", tmp_path / "all.json")
    assert result.exit_code == 0 and result.stdout.count("Wrote ") == 2
    assert "minilm-int8, minilm-int4" in target.read_text()
    merged = hf_quant.read_report(tmp_path / "all.json")
    assert len(merged.drops) == 2 and len(merged.benchmarks) == 1


def test_without_an_output_markdown_is_shown(files):
    result = report(files[0])
    assert result.exit_code == 0 and result.stdout.startswith("# Quantized: minilm-int8")


def test_a_file_that_is_read_is_not_written_over(files):
    before = files[0].read_text()
    result = report(*files, "--output", files[0])
    assert isinstance(result.exception, ConfigError) and "give another name" in str(result.exception)
    assert files[0].read_text() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 99, "drops": []}', "nonsense"])
def test_a_file_that_is_no_report_is_a_typed_error_that_names_it(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    result = report(tmp_path / "odd.json")
    assert isinstance(result.exception, EvaluationError) and "odd.json" in str(result.exception)


def test_an_ending_that_nothing_writes_is_a_config_error(files, tmp_path):
    result = report(files[0], "--output", tmp_path / "all.pdf")
    assert isinstance(result.exception, ConfigError) and ".html" in str(result.exception)
