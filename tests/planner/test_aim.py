"""Searches come near a target that is measured, in whatever unit it is."""

import math

import pytest

from hf_quant.errors import EvaluationError, InfeasibleBudget
from hf_quant.planner.aim import aim
from hf_quant.planner.search.ilp import ilp
from tests.planner.problems import model


def aimed(measure, budget="drop<=5%", measurements=8, problem=None):
    problem = problem or model()
    return aim(problem, budget, lambda limits: ilp(problem, limits), measure(problem), measurements)


def times(factor, power=1.0):
    return lambda problem: lambda assignment: factor * problem.totals(assignment).loss ** power


@pytest.mark.parametrize("factor", [0.02, 0.3, 1.0, 3.0, 40.0])
def test_the_smallest_plan_is_found_however_wrong_predictions_are_by_a_factor(factor):
    solution, log = aimed(times(factor))
    perfect = ilp(model(), f"drop<={5 / factor}%")
    assert solution.measured_loss <= 0.05
    assert perfect.bytes <= solution.bytes <= 1.03 * perfect.bytes
    assert len(log) == solution.evaluations <= 8


def test_another_unit_that_only_rises_with_the_loss_is_enough():
    solution, _ = aimed(times(0.5, power=1.7))
    perfect = ilp(model(), f"drop<={100 * (0.05 / 0.5) ** (1 / 1.7)}%")
    assert solution.measured_loss <= 0.05 and solution.bytes <= 1.05 * perfect.bytes


def test_what_was_measured_and_why_is_written_down():
    _, log = aimed(times(3.0))
    assert log[0].reason == "predictions have to be measured" and log[0].measured > 0.05
    assert "target 0.05" in log[1].reason and log[1].predicted < log[0].predicted


def test_a_target_that_nothing_meets_gives_what_loses_least():
    solution, log = aimed(lambda problem: lambda assignment: 1.0 + problem.totals(assignment).loss, measurements=4)
    assert solution.measured_loss == min(entry.measured for entry in log) > 0.05


def test_a_model_that_loses_nothing_is_made_as_small_as_it_goes():
    problem = model()
    solution, _ = aimed(lambda _: lambda assignment: 0.0, measurements=12, problem=problem)
    least = problem.fixed_bytes + sum(min(option.bytes for option in unit.options) for unit in problem.units)
    assert solution.bytes == least


def test_one_measurement_is_of_the_prediction():
    solution, log = aimed(times(0.1), measurements=1)
    assert len(log) == 1 and solution.assignment == ilp(model(), "drop<=5%").assignment


def test_what_breaks_the_model_is_told():
    with pytest.raises(EvaluationError, match="NaN"):
        aimed(lambda _: lambda assignment: math.nan)


def test_a_size_that_leaves_no_room_ends_the_search_or_is_told_at_once():
    problem = model()
    size = ilp(problem, "drop<=5%").bytes
    solution, log = aimed(times(30.0), f"drop<=5%,{size}B", problem=problem)
    assert solution.bytes <= size and solution.measured_loss > 0.05 and log
    with pytest.raises(InfeasibleBudget):
        aimed(times(1.0), "drop<=5%,600B", problem=problem)
