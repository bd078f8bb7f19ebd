"""Figures that suit a narrow screen, and their way into a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hf_quant.errors import MissingDependency
from hf_quant.reporting.report import Report

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of the quantized models, which most eyes can tell apart (Okabe and Ito)."""
REFERENCE = "#6b7280"

_WIDTH = 4.0
"""Width of a picture in inches: about that of a phone, so that letters are shown at their size."""
_STYLE = {
    "font.size": 9.5,
    # Text stays text: small, and searchable.
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_quant",
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "text.color": "#1f2937",
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
}


@dataclass(frozen=True)
class Picture:
    """A figure with its title and description.

    Args:
        figure: Figure of matplotlib.
        title: Title above the figure.
        description: What the figure shows; stands below it, and is read to those who do not see it.
    """

    figure: Any
    title: str
    description: str


def style() -> Any:
    """Context with the style that figures are made and written in.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    return _matplotlib("matplotlib").rc_context(_STYLE)


def new_figure(height: float) -> tuple[Any, Any]:
    """A new figure, `height` inches high, and its axes."""
    figure = _matplotlib("matplotlib.figure").Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def new_panels(count: int, height: float) -> tuple[Any, list[Any]]:
    """A new figure of panels below each other, each `height` inches, with room for a colour bar, and their axes."""
    size = (_WIDTH, count * height + 0.6)
    figure = _matplotlib("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(count, squeeze=False)[:, 0])


def normal(low: float, high: float, logarithmic: bool) -> Any:
    """The colour scale of matplotlib from a lowest to a highest value."""
    colours = _matplotlib("matplotlib.colors")
    return colours.LogNorm(low, max(high, 1.001 * low)) if logarithmic else colours.Normalize(low, high)


def new_rows(labels: Sequence[tuple[str, str, str]]) -> tuple[Any, Any]:
    """A new figure with a row for each label, the first on top at y = 0, and its axes; marks go below the words.

    Args:
        labels: Words above each row on the left, words on the right, and the colour of the latter.
    """
    figure, axes = new_figure(1.1 + 0.44 * len(labels))
    axes.set_ylim(len(labels) - 0.5, -0.85)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    options: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    options["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    for row, (left, right, colour) in enumerate(labels):
        axes.annotate(left, (0, row), xytext=(0, 11), ha="left", **options)
        axes.annotate(right, (1, row), xytext=(0, 11), ha="right", color=colour, **options)
    return figure, axes


def logarithmic(axis: Any) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each power of ten, as plain numbers."""
    ticker = _matplotlib("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(ticker.NullLocator())


def decades(axis: Any) -> None:
    """Label a logarithmic axis of many powers of ten at some of them, as plain numbers."""
    ticker = _matplotlib("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(numticks=6))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(ticker.NullLocator())


def colour_of(report: Report, model: str) -> str:
    """Colour of a quantized model, the same in every picture."""
    return COLOURS[report.models.index(model) % len(COLOURS)]


def legend(figure: Any, axes: Any, columns: int = 2) -> None:
    """Add a legend below the figure, if there is more than one thing to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if len(set(labels)) > 1:
        entries = dict(zip(labels, handles, strict=True))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def svg(picture: Picture, name: str) -> str:
    """A picture as an ``<svg>`` element whose ids begin with `name`, for a page that has several."""
    target = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        picture.figure.savefig(target, format="svg", metadata=nothing, transparent=True)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=\sid=")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    # The page sizes it.
    text = re.sub(r'(<svg[^>]*?) (?:width="[\d.]+pt") ?', r"\1 ", text, count=1)
    return re.sub(r'(<svg[^>]*?) ?height="[\d.]+pt"', r"\1", text, count=1)


def png(picture: Picture) -> bytes:
    """A picture with its title on white, as a PNG file's bytes."""
    target = io.BytesIO()
    picture.figure.suptitle(picture.title, fontsize=10)
    picture.figure.savefig(target, format="png", dpi=200, metadata={"Software": None}, facecolor="white")
    return target.getvalue()


def _matplotlib(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency('plots need matplotlib: pip install "hf-quant[report]"') from error
