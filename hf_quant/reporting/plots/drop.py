"""What each metric lost, with its interval."""

from __future__ import annotations

from hf_quant.reporting.plots.canvas import Picture, colour_of, new_rows
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.words import shortened, signed_percent


def draw(report: Report) -> Picture | None:
    """Picture of relative losses, a row for each metric of each evaluation; None where no metric has one."""
    rows = [(drop, metric) for drop in report.drops for metric in drop.metrics if metric.relative_drop is not None]
    if not rows:
        return None
    labels = []
    for drop, metric in rows:
        lost = f"{shortened(short_name(drop.quantized), 18)} {signed_percent(metric.relative_drop)}"
        labels.append((shortened(f"{metric.name}, {drop.task}", 32), lost, colour_of(report, drop.quantized)))
    figure, axes = new_rows(labels)
    axes.axvline(0, color="#1f2937", linewidth=0.8)
    for row, (drop, metric) in enumerate(rows):
        middle, low, high = metric.relative_drop, metric.relative_low, metric.relative_high
        assert middle is not None
        ends = [100 * (middle if low is None else low), 100 * (middle if high is None else high)]
        colour = colour_of(report, drop.quantized)
        axes.plot(ends, [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([100 * middle], [row], "o", color=colour, markersize=7)
    axes.margins(x=0.06)
    axes.set_xlabel("loss relative to the reference, %")
    confidence = f"{100 * rows[0][0].confidence:.0f} %"
    return Picture(
        figure,
        "Loss of each metric",
        f"Dots are what was lost, bars the {confidence} interval. Right of zero the quantized model is worse.",
    )
