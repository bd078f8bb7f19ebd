"""The page is whole, needs nothing else, and shows texts of strangers as texts."""

import re
from html.parser import HTMLParser

import pytest

from hf_quant.errors import MissingDependency
from hf_quant.reporting.html import to_html
from hf_quant.reporting.report import Report
from tests.reporting.samples import HOSTILE, benchmark_report, drop_report, full_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Elements, ids and text of a page; fails where elements are not nested."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def page():
    return to_html(full_report())


def test_every_plot_and_table_is_on_the_page(page):
    outline = Outline(page)
    assert outline.tags.count("svg") == 4
    assert outline.tags.count("table") > 10
    titles = ("Loss of each metric", "Size against accuracy", "Latency", "Error, module by module")
    assert all(title in outline.text for title in titles)
    assert "+0.40 pt (-0.20 to +1.10)" in outline.text


def test_numbers_stay_on_one_line_with_their_units():
    shown = re.sub("\N{NO-BREAK SPACE}", "_", to_html(Report((drop_report("x", layers=0, hostile="5 small"),))))
    assert "+0.40_pt (-0.20 to +1.10)" in shown and "+0.42_% (-0.21_% to +1.15_%)" in shown
    assert "5 small" in shown


def test_nothing_is_fetched_and_nothing_runs(page):
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image"} & set(outline.tags)
    links = {value for name, value in outline.attributes if name in ("href", "xlink:href", "src")}
    assert all(value.startswith("#") for value in links)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_texts_of_strangers_are_texts(page):
    assert "<script>alert" not in page and "<img src=" not in page
    assert '<script>alert("x")</script>' in Outline(page).text


def test_names_of_strangers_are_texts_in_plots_too():
    name = "models/<i>x</i> & $\\frac{1}{0}$ \x00 模型"
    page = to_html(Report((drop_report(name, task=HOSTILE),), (benchmark_report(name),)))
    assert "<i>" not in page and "\x00" not in page
    assert "模型" in Outline(page).text


def test_ids_are_unique_and_references_lead_to_one(page):
    ids = [value for name, value in Outline(page).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {one or other for one, other in references} <= set(ids)


def test_it_is_made_for_phones(page):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert not re.search(r"<svg[^>]* (?:width|height)=", page)


def test_parts_that_were_not_measured_are_left_out():
    speed_only = Outline(to_html(Report((), (benchmark_report(),))))
    assert speed_only.tags.count("svg") == 1 and "Agreement" not in speed_only.text
    loss_only = Outline(to_html(Report((drop_report(layers=0),))))
    assert loss_only.tags.count("svg") == 1 and "Throughput" not in loss_only.text


def test_the_same_report_makes_the_same_page(page):
    assert to_html(full_report()) == page


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r'pip install "hf-quant\[report\]"'):
        to_html(full_report())
