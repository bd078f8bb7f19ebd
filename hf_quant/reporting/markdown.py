"""A report as Markdown, for terminals, pull requests and model cards."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_quant.reporting.document import sections, title
from hf_quant.reporting.report import Report
from hf_quant.reporting.tables.table import Table
from hf_quant.reporting.words import sentence, shortened

_MOST_ROWS = 40
"""Most rows shown of folded tables: Markdown cannot fold, and JSON has them all."""


def to_markdown(report: Report) -> str:
    """A report as Markdown.

    Raises:
        EvaluationError: The report is empty.
    """
    lines = [f"# {escaped(title(report))}"]
    for section in sections(report):
        lines += ["", f"## {escaped(section.title)}"]
        for paragraph in section.paragraphs:
            lines += ["", escaped(sentence(paragraph))]
        for table in section.tables:
            lines += ["", *table_lines(table)]
    return "\n".join(lines) + "\n"


def table_lines(table: Table) -> list[str]:
    """Lines of Markdown for a table with its title and caption."""
    rows = table.rows[:_MOST_ROWS] if table.folded else table.rows
    lines = [f"### {escaped(table.title)}", ""] if table.title else []
    lines.append(_row(table.header))
    lines.append(f"|{'|'.join('---:' if column in table.numbers else '---' for column in range(len(table.header)))}|")
    lines += map(_row, rows)
    if len(rows) < len(table.rows):
        lines += ["", f"The first {len(rows)} of {len(table.rows)}."]
    if table.caption:
        lines += ["", escaped(table.caption)]
    return lines


def escaped(text: str) -> str:
    """A text as one line of Markdown that shows it as it is; it may come from anyone."""
    text = shortened(text, max(len(text), 1))
    # A colon would make a link of an address.
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!]|:(?=//))", r"\\\1", text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"
