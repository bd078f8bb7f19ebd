"""Pictures of plans: a heat map of sensitivities, a map of bits, and fronts of size, time and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_quant.planner.page.grid import Grid, grid_of
from hf_quant.planner.report import Point, SearchReport
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.reporting.plots.canvas import COLOURS, REFERENCE, Picture, decades, legend, new_figure, new_panels, normal

_ROW = 0.17
"""Height of a row of a map, in inches."""
_MAP = "viridis"
_RANGE = 1e4


def heat_map(table: LossTable) -> Picture | None:
    """Heat map of sensitivities, a panel for each scheme; None without blocks. Call and write in `canvas.style`."""
    grid = grid_of(table.modules)
    # What is lost by chance or not at all has no place on a logarithmic scale.
    lost = [
        {name: loss for name, loss in zip(table.modules, losses, strict=True) if loss is not None and loss > 0}
        for losses in zip(*table.losses, strict=True)
    ]
    values = np.array([grid.means(each) for each in lost])
    if not np.isfinite(values).any():
        return None
    scale = normal(float(np.nanmin(values)), float(np.nanmax(values)), logarithmic=True)
    figure, panels = new_panels(len(table.schemes), _height(grid))
    for axes, scheme, panel in zip(panels, table.schemes, values, strict=True):
        image = _drawn(axes, panel, grid, scale)
        axes.set_title(str(scheme), loc="left", fontsize=8.5)
    panels[-1].set_xlabel("block")
    decades(_bar(figure, image, panels, table.unit).ax.xaxis)
    return Picture(
        figure,
        f"Sensitivity by {table.measure}",
        "What the model loses when one module alone is quantized, by scheme; bright modules lose most. Blank: nothing, "
        "or the scheme does not fit.",
    )


def bit_map(report: SearchReport) -> Picture | None:
    """Map of bits per weight, a column for each block; None without blocks."""
    bits = {name: unit.bits for unit in report.units for name in unit.modules}
    grid = grid_of(bits)
    values = grid.means(bits)
    if not np.isfinite(values).any():
        return None
    figure, panels = new_panels(1, _height(grid))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    image = _drawn(panels[0], values, grid, normal(low, high if high > low else low + 1, logarithmic=False))
    panels[0].set_xlabel("block")
    _bar(figure, image, panels, "bits per weight")
    return Picture(figure, f"Where the bits of {report.budget} go", "Scales and zero points counted.")


def fronts(reports: Sequence[SearchReport]) -> list[Picture]:
    """Pictures of size against loss, and of time against loss where times are known."""
    found = [
        _front(
            reports,
            lambda point: point.bytes / 1e6,
            lambda report: report.bytes / 1e6,
            "Size against loss",
            "file, MB (left is smaller)",
        )
    ]
    if any(report.milliseconds is not None for report in reports):
        found.append(
            _front(
                reports,
                lambda point: point.milliseconds,
                lambda report: report.milliseconds,
                "Time against loss",
                "ms (left is faster)",
            )
        )
    return [picture for picture in found if picture is not None]


def _front(
    reports: Sequence[SearchReport],
    of_point: Callable[[Point], float | None],
    of_report: Callable[[SearchReport], float | None],
    title: str,
    label: str,
) -> Picture | None:
    points = [(x, point.loss) for point in reports[0].front if (x := of_point(point)) is not None]
    plans = [(report, x) for report in reports if (x := of_report(report)) is not None]
    if not points and not plans:
        return None
    figure, axes = new_figure(3.4)
    points.sort()
    axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=REFERENCE, markersize=3, label="predicted")
    for number, (report, x) in enumerate(plans):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([x], [report.predicted_loss], "o", color=colour, markersize=6, markerfacecolor="white")
        if (measured := _measured(report)) is not None:
            axes.plot([x, x], [report.predicted_loss, measured], "-", color=colour, linewidth=1)
            axes.plot([x], [measured], "o", color=colour, markersize=6)
        axes.plot([], [], "o", color=colour, label=report.budget)
    losses = [y for _, y in points] + [report.predicted_loss for report, _ in plans]
    losses += [measured for report, _ in plans if (measured := _measured(report)) is not None]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
        # Below, no two plans can be told apart by measuring them.
        bottom = max(min(losses) / 2, max(losses) / _RANGE)
        axes.set_ylim(bottom=bottom)
        seen = [x for x, y in points if y >= bottom] + [x for _, x in plans]
        axes.set_xlim(right=min(1.15 * max(seen), axes.get_xlim()[1]))
        decades(axes.yaxis)
    axes.set_xlabel(label)
    axes.set_ylabel("rise of the loss (down is better)")
    legend(figure, axes)
    return Picture(
        figure,
        title,
        "The line joins what searches predict for other budgets. Open dots are predicted, full ones measured.",
    )


def _measured(report: SearchReport) -> float | None:
    """The measured loss if it is in the unit of predictions; None if it is a fall of accuracy, or was not measured."""
    return report.measured_loss if report.metric == "loss" else None


def _height(grid: Grid) -> float:
    return 0.25 + _ROW * len(grid.kinds)


def _drawn(axes: Any, values: Any, grid: Grid, scale: Any) -> Any:
    # Cells are shapes: a page shows no embedded images.
    image = axes.pcolormesh(np.ma.masked_invalid(values), cmap=_MAP, norm=scale, edgecolors="face", linewidth=0.1)
    axes.invert_yaxis()
    axes.set_yticks([row + 0.5 for row in range(len(grid.kinds))], grid.kinds, fontsize=7)
    shown = range(0, len(grid.blocks), max(1, len(grid.blocks) // 8))
    axes.set_xticks([column + 0.5 for column in shown], [str(grid.blocks[column]) for column in shown], fontsize=7)
    axes.grid(visible=False)
    return image


def _bar(figure: Any, image: Any, panels: Sequence[Any], label: str) -> Any:
    bar = figure.colorbar(image, ax=list(panels), location="bottom", shrink=0.8, label=label, aspect=35)
    bar.solids.set(rasterized=False, edgecolor="face")
    return bar
