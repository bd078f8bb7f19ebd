"""Sections of reports on a screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_quant.reporting.tables.table import Table as Rows
from hf_quant.reporting.words import shortened

_LONGEST = 120
"""Most characters shown of a cell; files have all of them."""


def print_section(title: str | None, notes: Iterable[str], tables: Iterable[Rows]) -> None:
    """Print a section of a report: title, if any, notes, and tables with their captions."""
    console = Console()
    if title is not None:
        console.print(title, style="bold", highlight=False, markup=False)
    for note in notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    for rows in tables:
        console.print(_table(rows))
        if rows.caption:
            console.print(rows.caption, highlight=False, markup=False)


def _table(rows: Rows) -> Table:
    table = Table(title=rows.title or None, title_justify="left")
    for number, name in enumerate(rows.header):
        # Names and texts may come from anyone and hold what rich takes for markup.
        table.add_column(Text(name), justify="right" if number in rows.numbers else "left")
    for row in rows.rows:
        table.add_row(*(Text(shortened(cell, _LONGEST)) for cell in row))
    return table
