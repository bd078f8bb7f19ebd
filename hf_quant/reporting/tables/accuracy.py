"""Tables of one evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from hf_quant.evaluation.report import DropReport
from hf_quant.reporting import words
from hf_quant.reporting.report import short_name
from hf_quant.reporting.tables.table import Section, Table


def accuracy_section(drop: DropReport) -> Section:
    """Section on one evaluation: metrics, agreement, worst examples, modules, and how it was done."""
    tables = [metrics_table(drop), _agreement(drop)]
    if drop.worst:
        tables.append(_worst(drop))
    if drop.layers:
        tables.append(_layers(drop))
    tables.append(_method(drop))
    return Section(
        title=f"Accuracy: {short_name(drop.quantized)}, {drop.task}",
        paragraphs=drop.notes,
        tables=tuple(tables),
    )


def metrics_table(drop: DropReport) -> Table:
    """Table of every metric of both models, and what was lost."""
    rows = tuple(
        (
            metric.name + (" (higher is better)" if metric.higher_is_better else " (lower is better)"),
            words.value(metric.reference),
            words.value(metric.quantized),
            words.drop(metric),
            words.relative_drop(metric),
        )
        for metric in drop.metrics
    )
    split = f", split {drop.data.split}" if drop.data.split else ""
    return Table(
        header=("metric", "reference", "quantized", "loss", "relative"),
        rows=rows,
        numbers=(1, 2),
        caption=f"{drop.data.name}{split}: {drop.data.examples:,} examples. Above zero the quantized model is worse; "
        f"in brackets the paired {words.percent(drop.confidence, 0)} interval.",
    )


def _agreement(drop: DropReport) -> Table:
    return Table(("agreement", "value"), tuple(_agreements(drop)), title="Agreement of the two models")


def _agreements(drop: DropReport) -> Iterator[tuple[str, str]]:
    found = drop.agreement
    yield f"{found.unit} compared", f"{found.compared:,}"
    if found.top1_agreement is not None:
        yield "same answer", words.percent(found.top1_agreement, 2)
    if found.flips_to_wrong is not None and found.flips_to_right is not None:
        yield "right became wrong", f"{found.flips_to_wrong:,}"
        yield "wrong became right", f"{found.flips_to_right:,}"
    if found.mcnemar_p is not None:
        yield "McNemar's test, p", words.value(found.mcnemar_p)
    if found.kl_mean is not None:
        interval = ""
        if found.kl_low is not None and found.kl_high is not None:
            interval = f" ({found.kl_low:.3g} to {found.kl_high:.3g})"
        yield "KL divergence, nats", f"{found.kl_mean:.3g}{interval}"


def _worst(drop: DropReport) -> Table:
    return Table(
        header=("example", "text", "label", "reference", "quantized", "harm"),
        rows=tuple(
            (
                str(example.index),
                words.shortened(example.text, 300),
                words.shortened(example.label, 80),
                words.shortened(example.reference, 80),
                words.shortened(example.quantized, 80),
                f"{example.harm:.4g}",
            )
            for example in drop.worst
        ),
        title="Examples that suffer most",
        caption=f"Harm: {drop.harm}." if drop.harm else "",
        numbers=(0, 5),
        folded=True,
    )


def _layers(drop: DropReport) -> Table:
    grows = f"Well above what comes before it for the first time: {drop.first_growth}. " if drop.first_growth else ""
    return Table(
        header=("module", "kind", "relative error"),
        rows=tuple((layer.name, layer.kind, f"{layer.relative_error:.2e}") for layer in drop.layers),
        title="Error of each module's output",
        caption=f"{grows}In the order of the forward pass.",
        numbers=(2,),
        folded=True,
    )


def _method(drop: DropReport) -> Table:
    rows = [
        ("reference", drop.reference),
        ("quantized", drop.quantized),
        ("data", drop.data.name),
        ("SHA-256 of the data", drop.data.fingerprint),
        ("bootstrap", f"{drop.resamples:,} resamples of {drop.examples:,} pairs, seed {drop.seed}"),
        *((name, str(option)) for name, option in drop.options.items()),
        *drop.environment.items(),
        ("forward passes", f"{drop.seconds_reference:.1f} s reference, {drop.seconds_quantized:.1f} s quantized"),
        ("altogether", f"{drop.seconds:.1f} s"),
    ]
    return Table(("what", "value"), tuple(rows), title="How it was evaluated", folded=True)
