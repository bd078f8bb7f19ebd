"""A search report says what was chosen and why, and comes back from JSON as it was."""

import json

import pytest

from hf_quant.cli.sections import print_section
from hf_quant.errors import EvaluationError
from hf_quant.planner.pareto import sweep
from hf_quant.planner.repair import repair
from hf_quant.planner.report import SearchReport, search_report
from hf_quant.planner.search.evolutionary import evolutionary
from tests.planner.problems import model, tangled


@pytest.fixture(scope="module")
def report():
    problem = model(units=6)
    solution = evolutionary(problem, "4.5bpw", tangled(problem), 12)
    repaired = repair(problem, "4.5bpw", solution, tangled(problem), 4)
    return search_report(problem, "4.5bpw", repaired.solution, repaired.log, sweep(problem, points=4))


def test_json_gives_the_same_report(report):
    assert SearchReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_units_add_up_to_the_whole(report):
    problem = model(units=6)
    assert sum(unit.bytes for unit in report.units) + problem.fixed_bytes == report.bytes
    assert sum(unit.loss for unit in report.units) == pytest.approx(report.predicted_loss)
    assert len(report.history) == report.evaluations


def test_reasons_name_what_was_not_chosen(report):
    reasons = [unit.reason for unit in report.units]
    assert any("would save" in reason and "would cost" in reason for reason in reasons)


def test_a_loss_that_is_infinite_can_be_written():
    problem = model(units=6)
    found = evolutionary(problem, "4.5bpw", lambda one: float("inf"), 3)
    json.dumps(search_report(problem, "4.5bpw", found).to_dict(), allow_nan=False)


def test_reports_with_other_keys_are_refused(report):
    with pytest.raises(EvaluationError, match="no key 'sice'"):
        SearchReport.from_dict({**report.to_dict(), "sice": 1})


def test_the_screen_shows_plan_repairs_and_alternatives(report, capsys):
    print_section("Search", [], report.tables())
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("layers.0", "Measured and repaired", "Alternatives", "4.5bpw"))


def test_many_units_of_a_kind_are_a_row_for_each_scheme(report):
    problem = model(units=900)
    found = search_report(problem, "4.5bpw", evolutionary(problem, "4.5bpw", tangled(problem), 12))
    many = {s for s in {u.scheme for u in found.units} if sum(u.scheme == s for u in found.units) > 128}
    assert many
    rows = found.tables()[0].rows
    assert len(rows) == sum(unit.scheme not in many for unit in found.units) + len(many)
    assert sum(int(row[2].replace(",", "")) for row in rows) == sum(unit.bytes for unit in found.units)
    assert len(report.tables()[0].rows) == len(report.units)
