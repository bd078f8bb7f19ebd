"""Results of calibrated quantization as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.calibrated_methods import BEST, FLOAT, METHODS, NEAREST, SETTINGS

COLUMNS = (FLOAT, *METHODS, BEST)


@dataclass(frozen=True)
class Result:
    """What was measured of a model in a setting by a method.

    Args:
        model: A name of `calibrated_subjects.SUBJECTS`.
        setting: A name of `SETTINGS`; empty for float32.
        method: One of `COLUMNS`.
        metric: What `quality` is.
        quality: Perplexity, or accuracy from 0 to 1.
        seconds: Of loading and quantizing.
        peak: Anonymous bytes meanwhile.
        bits: Stored for each weight of the linears, scales and zero points counted; embeddings and heads are left out.
    """

    model: str
    setting: str
    method: str
    metric: str
    quality: float
    seconds: float
    peak: int
    bits: float


def closed(quality: float, nearest: float, reference: float) -> float:
    """The part of the gap between round to nearest and float32 that `quality` closes: 1 is all of it."""
    return (nearest - quality) / (nearest - reference)


def tables(results: Iterable[Result]) -> str:
    """For each model its quality, the part of the gap that each method closes, and what that costs."""
    found: dict[str, dict[tuple[str, str], Result]] = {}
    for result in results:
        found.setdefault(result.model, {})[result.setting, result.method] = result
    return "\n\n".join(_of_model(model, cells) for model, cells in found.items())


def _of_model(model: str, cells: Mapping[tuple[str, str], Result]) -> str:
    metric = next(iter(cells.values())).metric
    settings = [setting for setting in SETTINGS if any(at == setting for at, _ in cells)]
    columns = [method for method in COLUMNS if any(of == method for _, of in cells)]
    methods = [method for method in columns if method != FLOAT]

    def rows(columns: Sequence[str], show: Callable[[str, str], str]) -> str:
        header = f"| setting | bits | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}"
        lines = [
            f"| {setting} | {_bits(cells, setting)} | {' | '.join(show(setting, method) for method in columns)} |"
            for setting in settings
        ]
        return "\n".join([header, *lines])

    def quality(setting: str, method: str) -> str:
        cell = cells.get(("" if method == FLOAT else setting, method))
        return "" if cell is None else f"{cell.quality:.4f}" if metric == "accuracy" else f"{cell.quality:.3f}"

    def gap(setting: str, method: str) -> str:
        cell, nearest, reference = (cells.get(key) for key in ((setting, method), (setting, NEAREST), ("", FLOAT)))
        if cell is None or nearest is None or reference is None:
            return ""
        lost = nearest.quality - reference.quality
        if lost == 0 or (lost > 0) == (metric == "accuracy"):
            return "RTN loses nothing"
        return f"{closed(cell.quality, nearest.quality, reference.quality):.0%}"

    def cost(setting: str, method: str) -> str:
        cell = cells.get((setting, method))
        return "" if cell is None else f"{cell.seconds:.0f} s, {cell.peak / 1e6:.0f} MB"

    parts = [
        f"### {model}: {metric}",
        rows(columns, quality),
        "Part of the gap between RTN and fp32 that is closed:",
        rows([method for method in methods if method != NEAREST], gap),
        "Time and peak anonymous memory of loading and quantizing:",
        rows(methods, cost),
    ]
    return "\n\n".join(parts)


def _bits(cells: Mapping[tuple[str, str], Any], setting: str) -> str:
    # Methods choose codes; how many bits they take does not depend on the method.
    return f"{next(cell.bits for (at, _), cell in cells.items() if at == setting):.3f}"
