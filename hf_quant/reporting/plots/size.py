"""Size of the file against what was lost."""

from __future__ import annotations

from hf_quant.reporting.plots.canvas import REFERENCE, Picture, colour_of, legend, new_figure
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.words import shortened

_MARKERS = "osD^vP"


def draw(report: Report) -> Picture | None:
    """Picture of size against loss: a point for each evaluation whose model's size is known; None without any."""
    points = [
        (drop, drop.metrics[0], figures)
        for drop in report.drops
        if (figures := report.figures_of(drop)) and drop.metrics and drop.metrics[0].relative_drop is not None
    ]
    if not points:
        return None
    figure, axes = new_figure(3.6)
    tasks = list(dict.fromkeys(drop.task for drop, _, _ in points))
    for drop, metric, (reference, quantized) in points:
        middle, low, high = metric.relative_drop, metric.relative_low, metric.relative_high
        assert middle is not None
        ends = [-100 * (middle if low is None else low), -100 * (middle if high is None else high)]
        colour = colour_of(report, drop.quantized)
        marker = _MARKERS[tasks.index(drop.task) % len(_MARKERS)]
        size = quantized.file_bytes / 1e6
        axes.plot([size, size], ends, color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([size], [-100 * middle], marker, color=colour, markersize=7)
        axes.plot([], [], "-", linewidth=3, color=colour, label=shortened(short_name(drop.quantized), 22))
        axes.plot([reference.file_bytes / 1e6], [0], "*", color=REFERENCE, markersize=10)
        axes.plot([], [], "*", color=REFERENCE, label=shortened(short_name(reference.name), 22))
    for task, marker in zip(tasks if len(tasks) > 1 else [], _MARKERS, strict=False):
        axes.plot([], [], marker, color="#1f2937", label=shortened(task, 22))
    axes.axhline(0, color="#1f2937", linewidth=0.8)
    axes.margins(x=0.08, y=0.15)
    axes.set_xlim(left=0)
    axes.set_xlabel("weights' files, MB (left is smaller)")
    axes.set_ylabel("change, % (up is better)")
    legend(figure, axes)
    return Picture(
        figure,
        "Size against accuracy",
        "Change of each task's first metric relative to the reference, turned so that up is better for all, and its "
        "interval.",
    )
