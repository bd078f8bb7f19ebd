"""What is measured has the last word, and bits that are the same for all are asked where predictions are near."""

from functools import partial

import pytest

from hf_quant.planner.confirm import confirmed
from hf_quant.planner.search.ilp import ilp
from hf_quant.planner.search.uniform import uniform
from tests.planner.problems import model


def alike():
    """Units whose predicted losses hardly differ, so that no plan is predicted to be far better than another."""
    return model(units=12, spread=0.1)


def found(problem, measure, measurements, budget="4.5bpw"):
    return confirmed(problem, budget, partial(ilp, problem), measure, measurements, True, progress=False)


def test_bits_that_are_the_same_for_all_win_where_they_are_measured_to_lose_less():
    problem = alike()
    same = uniform(problem, "4.5bpw")
    assert ilp(problem, "4.5bpw").assignment != same.assignment

    def measure(assignment):
        return 0.1 if assignment == same.assignment else 1.0

    solution, log = found(problem, measure, 3)
    assert solution.assignment == same.assignment and solution.measured_loss == 0.1
    assert log[1].change == "the same bits for all" and log[1].kept


def test_they_lose_where_they_are_measured_to_lose_more():
    problem = alike()
    best = ilp(problem, "4.5bpw").assignment
    solution, log = found(problem, lambda assignment: 0.1 if assignment == best else 1.0, 3)
    assert solution.assignment == best and not log[1].kept


@pytest.mark.parametrize(
    ("problem", "measurements"), [(alike(), 2), (model(units=12), 4)], ids=["few measurements", "predicted far apart"]
)
def test_they_cost_no_measurement_otherwise(problem, measurements):
    _, log = found(problem, lambda assignment: problem.totals(assignment).loss, measurements)
    assert len(log) == measurements
    assert "the same bits for all" not in [step.change for step in log]


def test_they_are_measured_too_where_the_solution_loses_as_much_as_they_are_predicted_to():
    problem = model(units=12)
    same = uniform(problem, "4.5bpw")
    assert same.predicted_loss > 1.25 * ilp(problem, "4.5bpw").predicted_loss, "or they are measured anyway"
    _, log = found(problem, lambda assignment: same.predicted_loss, 3)
    assert log[1].change == "the same bits for all" and not log[1].kept
