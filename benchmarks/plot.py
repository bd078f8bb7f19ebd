"""A picture of the kernel benchmark: the share of the machine's limit that each op reaches, over tokens."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.case import Cell


class MatplotlibMissing(ImportError):
    """Nothing to draw with."""


def require_matplotlib() -> Any:
    """``matplotlib.figure.Figure``.

    Raises:
        MatplotlibMissing: With the command that installs it.
    """
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise MatplotlibMissing("--plot draws with matplotlib: pip install matplotlib") from error


def draw(cells: Sequence[Cell], isa: str, file: Path) -> None:
    """Write the picture; its format is that of the ending of `file`.

    Args:
        cells: Of one run; those of other instruction sets than `isa` are left out, and those without rows or limit.
        isa: What the machine does best.
        file: ``.svg``, ``.png`` or ``.pdf``.
    """
    figure = require_matplotlib()(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    shares: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        if cell.isa == isa and cell.rows and cell.of_limit is not None:
            shares.setdefault(cell.op, {}).setdefault(cell.rows, []).append(cell.of_limit)
    for index, (op, by_rows) in enumerate(shares.items()):
        rows = sorted(by_rows)
        style = ("-", "--", ":")[index // 10 % 3]
        medians = [100 * statistics.median(by_rows[count]) for count in rows]
        axes.plot(rows, medians, style, marker="o", markersize=4, label=op)
    ticks = sorted({cell.rows for cell in cells if cell.rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens")
    axes.set_ylabel("% of the machine's limit, median over shapes")
    axes.set_title(f"native kernels, {isa}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file)
