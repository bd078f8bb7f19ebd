"""The page in a browser, as a phone and a desktop show it: nothing is cut off, fetched or complained about."""

import pytest

from hf_quant.reporting.write import write_report
from tests.reporting.browser import CHROMIUM, visit
from tests.reporting.samples import full_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

LEAVING = """
[...document.querySelectorAll('main *')].filter(part => {
    const box = part.getBoundingClientRect();
    return box.width > 0 && !part.closest('.scroll') && !part.closest('svg') && box.right > innerWidth + 1;
}).length
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('figure svg')].map(
    part => 9.5 * part.getBoundingClientRect().width / part.viewBox.baseVal.width))
"""
CUT = """
[...document.querySelectorAll('figure svg text')].filter(part => {
    const box = part.getBoundingClientRect(), picture = part.closest('svg').getBoundingClientRect();
    return box.right > picture.right + 1 || box.left < picture.left - 1
        || box.bottom > picture.bottom + 1 || box.top < picture.top - 1;
}).map(part => part.textContent)
"""
PICTURES = "document.querySelectorAll('figure svg').length"
SCROLLING = """
[...document.querySelectorAll('.scroll')].filter(part => part.scrollWidth > part.clientWidth + 1).length
"""


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_and_is_quiet(width, tmp_path):
    page = write_report(tmp_path / "report.html", full_report())
    seen = visit(page, width, tmp_path / "profile", (LEAVING, SMALLEST, PICTURES, SCROLLING, CUT))
    assert seen.messages == [] and seen.requests == []
    assert seen.scroll_width <= width
    leaving, smallest, pictures, scrolling, cut = seen.values
    assert leaving == 0 and pictures == 4
    assert cut == [], "words of plots are cut off"
    assert smallest >= 9, "letters of plots are too small to read"
    if width == 390:
        assert scrolling == 0, "a table is wider than a phone"
