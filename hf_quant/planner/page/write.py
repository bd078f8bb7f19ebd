"""Searches as one HTML page, or their front as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_quant.errors import ConfigError
from hf_quant.planner.page.grid import grid_of
from hf_quant.planner.page.pictures import bit_map, fronts, heat_map
from hf_quant.planner.report import SearchReport
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.reporting.html import drawn, render
from hf_quant.reporting.json_file import write_bytes, write_text
from hf_quant.reporting.plots.canvas import png, style
from hf_quant.reporting.tables.table import Section, Table


def write_plan_page(
    file: str | Path, reports: SearchReport | Sequence[SearchReport], losses: LossTable | None = None
) -> Path:
    """Write the reports of searches of one model as an HTML page or a picture.

    Args:
        file: File to write: ``.html`` for one page that needs no other files, ``.png`` for the front of size and loss.
        reports: Reports of `hf_quant.search_plan`, one for each budget.
        losses: Sensitivities to draw as a heat map; None: no heat map.

    Returns:
        The path that was written.

    Raises:
        ConfigError: The file has another ending, or there are no reports.
        MissingDependency: matplotlib is not installed.
        SaveError: The file cannot be written; what was there is as it was.
    """
    file = Path(file)
    reports = [reports] if isinstance(reports, SearchReport) else list(reports)
    if not reports:
        raise ConfigError("there is no plan to show: give at least one report of search_plan")
    if file.suffix == ".png":
        with style():
            write_bytes(file, png(fronts(reports)[0]))
        return file
    if file.suffix != ".html":
        raise ConfigError(f"a page of plans ends in .html or .png, not {file.suffix or file.name!r}")
    with style():
        pictures = [drawn(picture, f"front{number}") for number, picture in enumerate(fronts(reports))]
        parts: list[dict[str, Any]] = [{"section": Section("Fronts"), "pictures": pictures}]
        for number, report in enumerate(reports):
            found = bit_map(report)
            parts.append(
                {
                    "section": Section(f"Plan for {report.budget}", report.tables(folded=True), (report.summary(),)),
                    "pictures": [] if found is None else [drawn(found, f"bits{number}")],
                }
            )
        if losses is not None:
            found = heat_map(losses)
            parts.append(
                {
                    "section": Section("Sensitivity", (_outside(losses),)),
                    "pictures": [] if found is None else [drawn(found, "heat")],
                }
            )
    write_text(file, render(f"Plans: {', '.join(report.budget for report in reports)}", parts))
    return file


def _outside(losses: LossTable) -> Table:
    names = grid_of(losses.modules).outside
    rows = dict(zip(losses.modules, losses.losses, strict=True))
    return Table(
        ("module", *map(str, losses.schemes)),
        tuple((name, *("" if loss is None else f"{loss:.3g}" for loss in rows[name])) for name in names),
        title="Outside the blocks",
        caption=f"Measure {losses.measure}, {losses.unit}",
        numbers=tuple(range(1, 1 + len(losses.schemes))),
    )
