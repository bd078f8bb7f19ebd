"""Markdown shows every figure, and texts of strangers as they are."""

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from hf_quant.errors import EvaluationError
from hf_quant.reporting.markdown import escaped, to_markdown
from hf_quant.reporting.report import Report
from tests.reporting.samples import HOSTILE, benchmark_report, drop_report, full_report

PARSER = MarkdownIt("gfm-like", {"linkify": False})


@pytest.fixture(scope="module")
def text():
    return to_markdown(full_report())


def test_every_table_is_a_table(text):
    tokens = PARSER.parse(text)
    tables = sum(token.type == "table_open" for token in tokens)
    assert tables == len(re.findall(r"^\|(?:-{3}:?\|)+$", text, re.MULTILINE)) > 10


def test_figures_and_their_intervals_are_there(text):
    assert "+0.40 pt (-0.20 to +1.10)" in text
    assert "+0.42 % (-0.21 % to +1.15 %)" in text
    assert "23.0 MB" in text and "25.3 %" in text
    assert "not readable here" in text
    assert "the paired 95 % interval" in text


def test_notes_come_with_the_figures_they_are_about(text):
    assert text.index("3 texts were cut") < text.index("+0.40 pt (-0.20")


@pytest.mark.parametrize(
    "hostile",
    [
        HOSTILE,
        "[click](http://evil.example)",
        "<b>bold</b>",
        "a | b\n| c",
        "# title",
        "**bold** _it_ ~~no~~ `code`",
        "&lt; &amp;",
        "http://evil.example https://evil.example",
        "\\| \\",
        "$x$",
    ],
)
def test_any_text_is_shown_as_it_is(hostile):
    tokens = PARSER.parse(f"| a |\n|---|\n| {escaped(hostile)} |")
    cell = tokens[tokens.index(next(token for token in tokens if token.type == "td_open")) + 1]
    assert {child.type for child in cell.children} <= {"text", "text_special"}
    assert "".join(child.content for child in cell.children) == " ".join(hostile.split())
    assert sum(token.type == "td_open" for token in tokens) == 1


def test_an_address_does_not_become_a_link():
    assert escaped("see http://evil.example") == "see http\\://evil.example"


def test_a_long_list_of_modules_is_cut_and_says_so():
    text = to_markdown(Report((drop_report(layers=100),)))
    assert "The first 40 of 100." in text


def test_an_empty_report_is_an_error():
    with pytest.raises(EvaluationError, match="the report is empty"):
        to_markdown(Report())


def test_joules_have_a_column_where_they_were_counted():
    report = benchmark_report()
    assert "joules of a call" not in to_markdown(Report((), (report,)))
    timings = tuple(replace(timing, joules=1.25) for timing in report.quantized.timings)
    counted = replace(report, energy="RAPL", quantized=replace(report.quantized, timings=timings))
    assert "| – / 1.25 |" in to_markdown(Report((), (counted,)))
