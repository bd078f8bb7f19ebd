"""The error of each module's output, from the input of the model to its output."""

from __future__ import annotations

from hf_quant.reporting.plots.canvas import Picture, colour_of, legend, logarithmic, new_figure
from hf_quant.reporting.report import Report, short_name
from hf_quant.reporting.words import shortened


def draw(report: Report) -> Picture | None:
    """Picture of modules' errors, a line for each evaluation that compared modules; None without one."""
    drops = [drop for drop in report.drops if drop.layers]
    if not drops:
        return None
    # The legend has a line for each evaluation, and two more for the module that it marks.
    figure, axes = new_figure(2.8 + 0.18 * sum(1 if drop.first_growth is None else 3 for drop in drops))
    positive = [layer.relative_error for drop in drops for layer in drop.layers if layer.relative_error > 0]
    # Zero has no place on a logarithmic axis.
    least = min(positive, default=1.0) / 2
    for drop in drops:
        colour = colour_of(report, drop.quantized)
        errors = [100 * max(layer.relative_error, least) for layer in drop.layers]
        name = shortened(short_name(drop.quantized), 22)
        axes.plot(range(len(errors)), errors, "-", color=colour, linewidth=1.4, label=name)
        for place, layer in enumerate(drop.layers):
            if layer.name == drop.first_growth:
                label = f"{name}: first at\n{shortened(layer.name, 40)}"
                style = {"markersize": 8, "markerfacecolor": "white", "markeredgewidth": 1.6}
                axes.plot([place], [errors[place]], "o", color=colour, label=label, **style)
    axes.set_yscale("log")
    logarithmic(axes.yaxis)
    axes.margins(y=0.1)
    axes.set_xlabel("modules, in the order of the forward pass")
    axes.set_ylabel("error of the output, %")
    legend(figure, axes, columns=1)
    return Picture(
        figure,
        "Error, module by module",
        "Errors are relative. Open dots mark the first module whose error is well above that of what comes before it.",
    )
