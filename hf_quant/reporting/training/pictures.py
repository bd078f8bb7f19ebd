"""Curves of a run: what is learned, how fast, and how weights lie on their grids."""

from __future__ import annotations

from dataclasses import dataclass

from hf_quant.reporting.plots.canvas import COLOURS, REFERENCE, Picture, legend, logarithmic, new_figure
from hf_quant.reporting.training.run import TrainingRun

_SMOOTHED = 30
"""Number of points above which a running mean is drawn over a loss, as losses of single batches scatter."""


@dataclass(frozen=True)
class Panel:
    """What one picture of a training run shows.

    Args:
        title: Title above the picture.
        description: Description below the picture.
        unit: Unit or label of the vertical axis.
        curves: Names of figures in the history to their labels in the legend.
        factor: Factor that values are multiplied by.
        is_logarithmic: Whether the vertical axis is logarithmic.
    """

    title: str
    description: str
    unit: str
    curves: dict[str, str]
    factor: float = 1.0
    is_logarithmic: bool = False


PANELS = (
    Panel(
        "Loss",
        "Evaluation computes as the quantized model will, on examples that are not trained on.",
        "loss",
        {"loss": "training", "eval_loss": "evaluation"},
    ),
    Panel("Accuracy", "On examples that are not trained on, quantized.", "accuracy, %", {"eval_accuracy": ""}, 100.0),
    Panel(
        "Weights on their grids",
        "The error is what rounding changes, relative to the weights; clipped weights lie beyond the last code; flips "
        "are codes that changed since the last point. Flips that do not fall are weights that swing between two codes.",
        "%",
        {"qat/error": "error", "qat/clipped": "clipped", "qat/flips": "flips"},
        100.0,
        True,
    ),
    Panel("Learning rate", "Of the weights; that of scales follows it.", "learning rate", {"learning_rate": ""}),
)


def draw(run: TrainingRun) -> list[Picture]:
    """Pictures of a training run, one for each panel that has something to show. Call and write in `canvas.style`."""
    return [picture for panel in PANELS if (picture := _drawn(panel, run)) is not None]


def _drawn(panel: Panel, run: TrainingRun) -> Picture | None:
    series = {name: run.series(name) for name in panel.curves}
    if panel.is_logarithmic:
        series = {name: _positive(*points) for name, points in series.items()}
    series = {name: points for name, points in series.items() if len(points[0]) > 1}
    if not series:
        return None
    figure, axes = new_figure(2.9)
    for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=False):
        scaled = [panel.factor * value for value in values]
        label = panel.curves[name] or None
        if len(steps) > _SMOOTHED and name == "loss":
            axes.plot(steps, scaled, color=colour, alpha=0.25, linewidth=0.8)
            scaled = _running_mean(scaled, max(3, len(steps) // 15))
        axes.plot(steps, scaled, "o-" if len(steps) < _SMOOTHED else "-", color=colour, markersize=3.5, label=label)
    if panel.is_logarithmic:
        axes.set_yscale("log")
        logarithmic(axes.yaxis)
    for step, words in run.marks.items():
        if 0 < step < run.steps:
            axes.axvline(step, color=REFERENCE, linewidth=0.8, linestyle=":")
            axes.annotate(
                words,
                (step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                ha="left",
                va="top",
                rotation=90,
                fontsize=7.5,
                color=REFERENCE,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )
    axes.set_xlim(0, run.steps)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    legend(figure, axes, columns=3)
    return Picture(figure, panel.title, panel.description)


def _positive(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if value > 0]
    return [step for step, _ in kept], [value for _, value in kept]


def _running_mean(values: list[float], window: int) -> list[float]:
    """Running mean over a window around each value, shorter at the ends."""
    half = window // 2
    parts = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(part) / len(part) for part in parts]
