"""Reports that lie beside the checkpoint they are about, and go where it goes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from hf_quant.evaluation.report import DropReport
from hf_quant.reporting.json_file import read_json, write_json
from hf_quant.reporting.report import Report, short_name

logger = logging.getLogger(__name__)

EVIDENCE_FILE = "hf_quant_report.json"


def carry_evidence(directory: Path, sources: Iterable[Path]) -> Report:
    """Carry over the report of a checkpoint, from the first source that has one about just these tensors.

    The report is also written into `directory`. Where there are only reports of other tensors, such as those of a
    checkpoint that this one replaces, an empty one is: a report must not lie beside a checkpoint it is not about.
    """
    found = [source for source in sources if (source / EVIDENCE_FILE).is_file()]
    if not found:
        return Report()
    fingerprint = checkpoint_fingerprint(directory)
    report = None
    for source in found:
        try:
            known = read_json(source / EVIDENCE_FILE)
        except EvaluationError as error:
            logger.warning("%s; the model card goes without it", error)
            continue
        report = Report(checkpoint=fingerprint)
        if known.checkpoint == fingerprint:
            report = known
            break
    if report is None:
        return Report()
    write_json(report, directory / EVIDENCE_FILE)
    return report


def add_evidence(directory: Path, drop: DropReport | None, benchmark: BenchmarkReport | None) -> Report:
    """Put reports beside the checkpoint that they are about, in place of older ones of the same kind.

    What may be private stays out: texts of examples, and folders of this machine.

    Raises:
        EvaluationError: A report is about another checkpoint, or `directory` holds none.
    """
    fingerprint = checkpoint_fingerprint(directory)
    drops, benchmarks = [drop] if drop else [], [benchmark] if benchmark else []
    for entry in drops:
        _check_same(entry.quantized, directory)
    for measured in benchmarks:
        _check_same(measured.quantized.name, directory)
        if measured.quantized.fingerprint not in (None, fingerprint):
            raise EvaluationError(f"{directory} has changed since the benchmark: run it again")
    known = carry_evidence(directory, [directory])
    new_drops, new_benchmarks = list(map(_public_drop, drops)), list(map(_public_benchmark, benchmarks))
    report = Report(
        (*_others(known.drops, new_drops, _subject), *new_drops),
        (*_others(known.benchmarks, new_benchmarks, _place), *new_benchmarks),
        fingerprint,
    )
    write_json(report, directory / EVIDENCE_FILE)
    return report


def _check_same(name: str, directory: Path) -> None:
    path = Path(name)
    if path.is_dir() and path.resolve() != directory.resolve():
        raise EvaluationError(
            f"the report is about {name}, not about {directory}: give the directory that was measured"
        )


def _others(known: tuple[Any, ...], new: list[Any], key: Any) -> list[Any]:
    return [entry for entry in known if key(entry) not in map(key, new)]


def _subject(drop: DropReport) -> tuple[str, ...]:
    return drop.task, drop.reference, drop.data.name, str(drop.data.split)


def _place(benchmark: BenchmarkReport) -> tuple[Any, ...]:
    return benchmark.machine.get("cpu"), benchmark.machine.get("device"), benchmark.threads


def _public_drop(drop: DropReport) -> DropReport:
    simple = {key: value for key, value in drop.options.items() if isinstance(value, bool | int | float | None)}
    return replace(
        drop,
        reference=public_name(drop.reference),
        quantized=public_name(drop.quantized),
        data=replace(drop.data, name=public_name(drop.data.name)),
        worst=(),
        harm="",
        options=simple,
    )


def _public_benchmark(benchmark: BenchmarkReport) -> BenchmarkReport:
    models = {name: getattr(benchmark, name) for name in ("reference", "quantized")}
    return replace(benchmark, **{name: replace(model, name=public_name(model.name)) for name, model in models.items()})


def public_name(name: str) -> str:
    """A name that may be published: a repository id as it is, and of a path the last part."""
    is_path = name.count("/") > 1 or name.startswith((".", "/", "~")) or Path(name).exists()
    return short_name(name) if is_path else name
