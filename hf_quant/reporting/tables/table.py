"""What a report consists of, whatever it is written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of plain text, not escaped yet.

    Args:
        header: Titles of the columns.
        rows: Cells of each row, as many as there are columns.
        caption: What readers have to know, below the table; ``""`` for none.
        title: Title above the table; ``""`` for none.
        numbers: Indices of the columns that are aligned to the right.
        folded: Whether a page shows the table on request only.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    title: str = ""
    numbers: tuple[int, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a report, with its tables and pictures.

    Args:
        title: Title of the section.
        tables: Tables, in order.
        paragraphs: Paragraphs of text before the tables.
        plots: Names of the pictures before the tables.
    """

    title: str
    tables: tuple[Table, ...] = ()
    paragraphs: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
