"""Steepest descent takes the hull, and comes close to the exact answer."""

import pytest

from hf_quant.planner.search.greedy import greedy, hull
from hf_quant.planner.search.ilp import ilp
from tests.planner.problems import model


def test_the_hull_leaves_out_what_lies_above_a_line_and_what_costs_more_for_nothing():
    points = [(3, 1.0), (1, 4.0), (2, 3.9), (5, 0.0), (4, 2.0), (6, 0.0)]
    assert [points[number] for number in hull(points)] == [(1, 4.0), (3, 1.0), (5, 0.0)]


@pytest.mark.parametrize("budget", ["3bpw", "4.5bpw", "6bpw"])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_within_two_percent_of_the_optimum_on_models_of_a_hundred_units(budget, seed):
    problem = model(units=100, seed=seed)
    assert greedy(problem, budget).predicted_loss <= 1.02 * ilp(problem, budget).predicted_loss


def test_with_two_limits_greedy_comes_close_too():
    problem = model(units=40, timed=True)
    time = problem.totals(ilp(problem, "5bpw").assignment).milliseconds
    budget = f"4.5bpw,{time:.3f}ms"
    assert greedy(problem, budget).predicted_loss <= 1.05 * ilp(problem, budget).predicted_loss
