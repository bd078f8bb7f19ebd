"""Times of all models, task by task."""

from __future__ import annotations

from hf_quant.reporting.plots.canvas import REFERENCE, Picture, colour_of, legend, logarithmic, new_rows
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.words import case, digits, shortened


def draw(report: Report) -> Picture | None:
    """Picture of times, a row for each task and size of each benchmark; None without benchmarks."""
    rows = [(benchmark, pair) for benchmark in report.benchmarks for pair in benchmark.pairs()]
    if not rows:
        return None
    # The same task of several models side by side.
    cases = list(dict.fromkeys(pair[0].case for _, pair in rows))
    rows.sort(key=lambda row: cases.index(row[1][0].case))
    labels = []
    for benchmark, (reference, _, speed_up) in rows:
        name = benchmark.quantized.name
        ratio = f"{shortened(short_name(name), 18)} {digits(speed_up.ratio.median)} x"
        labels.append((shortened(case(*reference.case), 32), ratio, colour_of(report, name)))
    figure, axes = new_rows(labels)
    for row, (benchmark, (reference, quantized, _)) in enumerate(rows):
        ends = [1e3 * reference.seconds.median, 1e3 * quantized.seconds.median]
        axes.plot(ends, [row, row], color="#d1d5db", linewidth=1)
        colour = colour_of(report, benchmark.quantized.name)
        for model, timing, shade in (
            (benchmark.reference, reference, REFERENCE),
            (benchmark.quantized, quantized, colour),
        ):
            quartiles = [1e3 * timing.seconds.low_quartile, 1e3 * timing.seconds.high_quartile]
            axes.plot(quartiles, [row, row], color=shade, linewidth=3, solid_capstyle="butt")
            name = shortened(short_name(model.name), 22)
            axes.plot([1e3 * timing.seconds.median], [row], "o", color=shade, markersize=7, label=name)
    axes.set_xscale("log")
    logarithmic(axes.xaxis)
    axes.margins(x=0.06)
    axes.set_xlabel("milliseconds of a call (left is faster)")
    legend(figure, axes)
    return Picture(
        figure, "Latency", "Dots are medians, bars reach from quartile to quartile; figures are median speed-ups."
    )
