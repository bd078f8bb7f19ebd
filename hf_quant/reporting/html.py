"""A report as one HTML page that needs nothing else: no script, no file, no address."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hf_quant.reporting.document import sections, title
from hf_quant.reporting.plots import PLOTS
from hf_quant.reporting.plots.canvas import style, svg
from hf_quant.reporting.report import Report
from hf_quant.reporting.words import sentence

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|pt|x|µs|ms|s|kB|MB|GB)(?!\w))")


def to_html(report: Report) -> str:
    """The whole page. Texts and names may come from anyone and are escaped.

    Raises:
        EvaluationError: The report is empty.
        MissingDependency: matplotlib is not installed.
    """
    environment = Environment(
        loader=PackageLoader("hf_quant.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(unbroken=_unbroken, sentence=sentence)
    parts = [
        {"section": section, "pictures": [picture for name in section.plots if (picture := _picture(name, report))]}
        for section in sections(report)
    ]
    page = environment.get_template("page.html").render(title=title(report), parts=parts)
    # A NUL or its like is no character of HTML.
    return "".join(letter for letter in page if letter in "\n\t" or ord(letter) >= 32)


def _unbroken(text: str) -> str:
    """Numbers stay on one line with their units."""
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)


def _picture(name: str, report: Report) -> dict[str, Any] | None:
    with style():
        picture = PLOTS[name](report)
        if picture is None:
            return None
        # Written by matplotlib, which escapes.
        return {"svg": Markup(svg(picture, name)), "title": picture.title, "description": picture.description}
