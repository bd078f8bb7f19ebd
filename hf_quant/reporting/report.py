"""Evaluations and benchmarks that belong together, as one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import benchmark_report
from hf_quant.evaluation import report as drop_report
from hf_quant.evaluation.benchmark_report import BenchmarkReport, ModelFigures
from hf_quant.evaluation.from_json import from_json
from hf_quant.evaluation.report import DropReport

SCHEMA_VERSION = 1
"""Version of the layout of `Report.to_dict`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Report:
    """Evaluations and benchmarks of one or several quantized models.

    Args:
        drops: Evaluations, in the order to show them.
        benchmarks: Benchmarks, in the order to show them.
        checkpoint: Fingerprint of the checkpoint that the report is about, if it lies beside one; else None.
    """

    drops: tuple[DropReport, ...] = ()
    benchmarks: tuple[BenchmarkReport, ...] = ()
    checkpoint: str | None = None

    @property
    def models(self) -> list[str]:
        """Names of the quantized models, each once."""
        names = [drop.quantized for drop in self.drops] + [entry.quantized.name for entry in self.benchmarks]
        return list(dict.fromkeys(names))

    def benchmark_of(self, model: str) -> BenchmarkReport | None:
        """The first benchmark of a quantized model, by its name; None without one."""
        return next((entry for entry in self.benchmarks if entry.quantized.name == model), None)

    def figures_of(self, drop: DropReport) -> tuple[ModelFigures, ModelFigures] | None:
        """Benchmarked figures of the reference and of an evaluation's quantized model; None without a benchmark."""
        found = self.benchmark_of(drop.quantized)
        return None if found is None else (found.reference, found.quantized)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict, with ``schema_version``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "drops": [drop.to_dict() for drop in self.drops],
            "benchmarks": [entry.to_dict() for entry in self.benchmarks],
            **({} if self.checkpoint is None else {"checkpoint": self.checkpoint}),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Report:
        """A report from what `to_dict` gives, of a `Report` or of a single `DropReport` or `BenchmarkReport`.

        Raises:
            EvaluationError: The values are of another schema version, or no such report.
        """
        if isinstance(values, dict) and "drops" not in values and "benchmarks" not in values:
            kind = "benchmarks" if "speed_ups" in values else "drops"
            values = {"schema_version": SCHEMA_VERSION, kind: [values]}
        values = _current(values, SCHEMA_VERSION, "the report")
        for key in values:
            if key not in ("drops", "benchmarks", "checkpoint"):
                raise EvaluationError(f"the report holds {key!r}, which is neither drops nor benchmarks")
        drops, benchmarks = values.get("drops", []), values.get("benchmarks", [])
        checkpoint = values.get("checkpoint")
        if not isinstance(drops, list) or not isinstance(benchmarks, list) or not isinstance(checkpoint, str | None):
            raise EvaluationError("drops and benchmarks of a report are lists, and checkpoint is a text")
        return cls(
            tuple(
                from_json(DropReport, _current(entry, drop_report.SCHEMA_VERSION, f"drops[{index}]"), f"drops[{index}]")
                for index, entry in enumerate(drops)
            ),
            tuple(
                from_json(
                    BenchmarkReport,
                    _current(entry, benchmark_report.SCHEMA_VERSION, f"benchmarks[{index}]"),
                    f"benchmarks[{index}]",
                )
                for index, entry in enumerate(benchmarks)
            ),
            checkpoint,
        )


def _current(values: Any, version: int, where: str) -> dict[str, Any]:
    """Values of a report without their schema version, which is checked."""
    if not isinstance(values, dict):
        raise EvaluationError(f"{where} is not an object: give a file that hf-quant evaluate or benchmark wrote")
    found = values.get("schema_version")
    if isinstance(found, int) and found > version:
        raise EvaluationError(
            f"{where} is of schema version {found}, newer than the {version} that this package reads: upgrade with "
            "pip install --upgrade hf-quant"
        )
    if found != version:
        raise EvaluationError(f"{where} has schema version {found!r}; this package reads {version}")
    return {key: value for key, value in values.items() if key != "schema_version"}


def short_name(model: str) -> str:
    """The last part of a path or repository id."""
    return PurePath(model).name or model
