"""The order of a report's parts."""

from __future__ import annotations

from hf_quant.errors import EvaluationError
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.tables.accuracy import accuracy_section
from hf_quant.reporting.tables.glance import glance
from hf_quant.reporting.tables.speed import speed_section
from hf_quant.reporting.tables.table import Section


def title(report: Report) -> str:
    """Title of the whole report."""
    return f"Quantized: {', '.join(map(short_name, report.models))}"


def sections(report: Report) -> list[Section]:
    """All sections of a report: at a glance, then evaluations, then benchmarks.

    Raises:
        EvaluationError: The report is empty.
    """
    if not report.models:
        raise EvaluationError("the report is empty: give a DropReport, a BenchmarkReport, or both")
    return [
        Section("At a glance", (glance(report),), plots=("drop", "size", "latency", "layers")),
        *map(accuracy_section, report.drops),
        *map(speed_section, report.benchmarks),
    ]
