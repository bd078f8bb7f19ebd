"""`hf_quant.write_report` and `hf_quant.read_report`: reports in files."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from hf_quant.errors import ConfigError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.report import DropReport
from hf_quant.registry import unknown
from hf_quant.reporting.html import to_html
from hf_quant.reporting.json_file import read_json, write_json, write_text
from hf_quant.reporting.markdown import to_markdown
from hf_quant.reporting.report import Report

WRITERS: dict[str, Callable[[Report, Path], None]] = {
    ".json": write_json,
    ".md": lambda report, file: write_text(file, to_markdown(report)),
    ".html": lambda report, file: write_text(file, to_html(report)),
}
"""Endings of files to functions that write a report to such a file."""


def write_report(file: str | PathLike[str], *reports: DropReport | BenchmarkReport | Report) -> Path:
    """Write evaluations and benchmarks of one or several quantized models to one file.

    Args:
        file: File to write: ``.json`` for programs, ``.md``, or ``.html``, a page with plots that needs no other files.
        *reports: Reports of `evaluate_drop`, `benchmark` or `read_report`, in the order to show them.

    Returns:
        The path that was written.

    Raises:
        ConfigError: The file has another ending, or something else is given.
        EvaluationError: There are no reports.
        MissingDependency: A page needs matplotlib, which is not installed.
        SaveError: The file cannot be written; what was there is as it was.
    """
    file = Path(file)
    if file.suffix not in WRITERS:
        raise ConfigError(unknown("ending of a report", file.suffix, WRITERS))
    WRITERS[file.suffix](merged(*reports), file)
    return file


def read_report(file: str | PathLike[str]) -> Report:
    """Read the report in a ``.json`` file: a `Report` with all its ``drops`` and ``benchmarks``.

    Raises:
        EvaluationError: The file cannot be read, is of a newer schema than this package's, or is no report.
    """
    return read_json(Path(file))


def merged(*reports: DropReport | BenchmarkReport | Report) -> Report:
    """Merge several reports into one.

    Raises:
        ConfigError: An argument is no report.
    """
    drops: list[DropReport] = []
    benchmarks: list[BenchmarkReport] = []
    for report in reports:
        if isinstance(report, DropReport):
            drops.append(report)
        elif isinstance(report, BenchmarkReport):
            benchmarks.append(report)
        elif isinstance(report, Report):
            drops += report.drops
            benchmarks += report.benchmarks
        else:
            raise ConfigError(f"a report is what evaluate_drop, benchmark or read_report returns, not {report!r}")
    return Report(tuple(drops), tuple(benchmarks))
