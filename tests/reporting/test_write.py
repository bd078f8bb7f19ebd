import pytest

import hf_quant
from hf_quant.errors import ConfigError, EvaluationError
from hf_quant.reporting.html import to_html
from hf_quant.reporting.markdown import to_markdown
from hf_quant.reporting.report import Report
from tests.reporting.samples import benchmark_report, drop_report, full_report


def test_the_ending_of_the_file_says_what_is_written(tmp_path):
    report = full_report()
    for name in ("r.json", "r.md", "r.html"):
        assert hf_quant.write_report(tmp_path / name, report) == tmp_path / name
    assert hf_quant.read_report(tmp_path / "r.json") == report
    assert (tmp_path / "r.md").read_text() == to_markdown(report)
    assert (tmp_path / "r.html").read_text() == to_html(report)


def test_evaluations_and_benchmarks_are_put_together(tmp_path):
    file = tmp_path / "new folder" / "all.json"
    hf_quant.write_report(file, drop_report(), benchmark_report(), Report((drop_report(task="other"),)))
    assert hf_quant.read_report(file) == Report((drop_report(), drop_report(task="other")), (benchmark_report(),))


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.htm"])
def test_other_endings_are_refused_and_the_known_ones_named(name, tmp_path):
    with pytest.raises(ConfigError, match=r"\.json, \.md, \.html"):
        hf_quant.write_report(tmp_path / name, drop_report())


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="what evaluate_drop, benchmark or read_report returns"):
        hf_quant.write_report(tmp_path / "r.md", {"drops": []})


def test_an_empty_page_is_not_written(tmp_path):
    with pytest.raises(EvaluationError, match="empty"):
        hf_quant.write_report(tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
