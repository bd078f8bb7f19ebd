"""What a report consists of, whatever it is written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Plain text in rows; nothing is escaped yet.

    Args:
        header: Of the columns.
        rows: As long as the header each.
        caption: What a reader has to know.
        title: Above it; ``""`` for none.
        numbers: Columns that are aligned to the right.
        folded: Whether a page shows it on request only.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    title: str = ""
    numbers: tuple[int, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: Of it.
        tables: In order.
        paragraphs: Before them.
        plots: Names of pictures, before the tables.
    """

    title: str
    tables: tuple[Table, ...] = ()
    paragraphs: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
