"""A run as one HTML page: what the model lost before and after, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_quant.evaluation.report import DropReport
from hf_quant.reporting.html import drawn, render
from hf_quant.reporting.json_file import write_text
from hf_quant.reporting.plots.canvas import style
from hf_quant.reporting.report import short_name
from hf_quant.reporting.tables.accuracy import accuracy_section
from hf_quant.reporting.tables.table import Section, Table
from hf_quant.reporting.training.pictures import draw
from hf_quant.reporting.training.run import TrainingRun
from hf_quant.reporting.training.tables import comparison


def write_page(file: Path, run: TrainingRun, drops: Sequence[DropReport]) -> None:
    """Write the HTML page of a training run.

    Args:
        file: HTML file to write.
        run: The run with what it logged.
        drops: Reports of what the model lost by rounding without training, if that was measured, and after training.

    Raises:
        MissingDependency: matplotlib is not installed.
        SaveError: The file cannot be written; what was there is as it was.
    """
    with style():
        curves = [drawn(picture, f"run{number}") for number, picture in enumerate(draw(run))]
    minutes = f"{run.seconds / 60:.1f} minutes" if run.seconds >= 90 else f"{run.seconds:.0f} s"
    recipe = tuple((name, _words(value)) for name, value in run.recipe.items())
    parts = [
        {"section": Section("Before and after", (comparison(drops),) if drops else ()), "pictures": []},
        {
            "section": Section(
                f"Training: {run.steps:,} steps, {minutes}",
                (Table(("recipe", ""), recipe, title="Recipe", folded=True),),
            ),
            "pictures": curves,
        },
        *({"section": accuracy_section(drop), "pictures": []} for drop in drops),
    ]
    write_text(file, render(f"Trained quantized: {short_name(run.model)}", parts))


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(each)}" for name, each in value.items())
    return str(value)
