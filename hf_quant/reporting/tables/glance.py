"""One line per quantized model: what it saves, and what it costs."""

from __future__ import annotations

from hf_quant.reporting import words
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.tables.table import Table


def glance(report: Report) -> Table:
    """Table of the size, speed and loss of every quantized model, in a row each."""
    return Table(
        header=("model", "file", "of the reference", "speed-up", "loss"),
        rows=tuple(_row(report, model) for model in report.models),
        numbers=(1, 2),
        caption="The loss is that of each task's first metric, relative to the reference, with its interval; the "
        "speed-up that of the first size measured.",
    )


def _row(report: Report, model: str) -> tuple[str, ...]:
    benchmark = report.benchmark_of(model)
    size, share, speed = words.ABSENT, words.ABSENT, words.ABSENT
    if benchmark is not None:
        size = words.bytes_(benchmark.quantized.file_bytes)
        share = words.percent(benchmark.quantized.file_bytes / max(1, benchmark.reference.file_bytes))
        speed = "; ".join(
            f"{words.TASKS.get(entry.task, entry.task)} {words.digits(entry.ratio.median)} x"
            for entry in benchmark.speed_ups
            if (entry.batch, entry.length) == (benchmark.speed_ups[0].batch, benchmark.speed_ups[0].length)
        )
    losses = []
    for drop in report.drops:
        if drop.quantized == model and drop.metrics:
            metric = drop.metrics[0]
            shown = words.relative_drop(metric) if metric.relative_drop is not None else words.drop(metric)
            losses.append(f"{drop.task}: {shown}")
    return short_name(model), size, share, speed, "; ".join(losses) or words.ABSENT
