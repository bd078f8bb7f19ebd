"""A report as one HTML page that needs nothing else: no script, no file, no address."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hf_quant.reporting.document import sections, title
from hf_quant.reporting.plots import PLOTS
from hf_quant.reporting.plots.canvas import Picture, style, svg
from hf_quant.reporting.report import Report
from hf_quant.reporting.words import sentence

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|pt|x|µs|ms|s|kB|MB|GB)(?!\w))")


def to_html(report: Report) -> str:
    """A report as one HTML page. Texts and names may come from anyone and are escaped.

    Raises:
        EvaluationError: The report is empty.
        MissingDependency: matplotlib is not installed.
    """
    parts = [
        {"section": section, "pictures": [picture for name in section.plots if (picture := _picture(name, report))]}
        for section in sections(report)
    ]
    return render(title(report), parts)


def render(title: str, parts: Sequence[Mapping[str, Any]]) -> str:
    """Render one HTML page from sections and pictures.

    Args:
        title: Title of the page.
        parts: Parts of the page, each with a `Section` as ``section`` and a list of what `drawn` gives as ``pictures``.
    """
    environment = Environment(
        loader=PackageLoader("hf_quant.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(unbroken=_unbroken, sentence=sentence)
    page = environment.get_template("page.html").render(title=title, parts=parts)
    # A NUL or its like is no character of HTML.
    return "".join(letter for letter in page if letter in "\n\t" or ord(letter) >= 32)


def drawn(picture: Picture, name: str) -> dict[str, Any]:
    """A picture as a page takes it: SVG, title and description; `name` must be unique on the page."""
    # Written by matplotlib, which escapes.
    return {"svg": Markup(svg(picture, name)), "title": picture.title, "description": picture.description}


def _unbroken(text: str) -> str:
    """A text whose numbers stay on one line with their units, by no-break spaces."""
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)


def _picture(name: str, report: Report) -> dict[str, Any] | None:
    with style():
        picture = PLOTS[name](report)
        return None if picture is None else drawn(picture, name)
