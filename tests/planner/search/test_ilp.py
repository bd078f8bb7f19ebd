"""The linear program finds what trying everything finds."""

import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_quant.config.presets import PRESETS
from hf_quant.errors import InfeasibleBudget, MissingDependency
from hf_quant.planner.budget import Budget
from hf_quant.planner.problem import Option, Problem, Unit
from hf_quant.planner.search.greedy import greedy
from hf_quant.planner.search.ilp import ilp
from tests.planner.problems import budget_between, everything, model, problems


@settings(max_examples=60, deadline=None)
@given(data=st.data(), timed=st.booleans())
def test_ilp_equals_brute_force(data, timed):
    problem = data.draw(problems(timed=timed))
    size = budget_between(data.draw, problem, lambda totals: totals.bytes)
    time = budget_between(data.draw, problem, lambda totals: totals.milliseconds) if timed else None
    if not size or time == 0:
        return
    kept = [t for _, t in everything(problem) if t.bytes <= size and (time is None or t.milliseconds <= time)]
    budget = Budget(bytes=size, milliseconds=time)
    if not kept:
        with pytest.raises(InfeasibleBudget):
            ilp(problem, budget)
    else:
        assert ilp(problem, budget).predicted_loss == pytest.approx(min(t.loss for t in kept), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ilp_finds_the_smallest_model_that_meets_a_target(data):
    problem = data.draw(problems())
    target = max(0.0, budget_between(data.draw, problem, lambda totals: totals.loss))
    kept = [totals.bytes for _, totals in everything(problem) if totals.loss <= target]
    if not kept:
        with pytest.raises(InfeasibleBudget):
            ilp(problem, Budget(drop=target))
    else:
        solution = ilp(problem, Budget(drop=target))
        assert solution.bytes == min(kept) and solution.predicted_loss <= target


def test_a_loss_that_vanishes_in_the_sum_does_not_rule_out_the_smallest_model():
    scheme = PRESETS["int8"].linear
    units = (
        Unit(("m0",), 1, (Option(None, 1, -1e-203), Option(scheme, 0, 0.0))),
        Unit(("m1",), 1, (Option(scheme, 0, 1.0),)),
    )
    problem = Problem(units, fixed_bytes=0, float_bytes=2)
    assert ilp(problem, Budget(drop=1.0)).bytes == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_greedy_is_never_better_than_ilp(data):
    problem = data.draw(problems(most_units=8))
    assume(problem.float_bytes > 1)
    size = sum(min(option.bytes for option in unit.options) for unit in problem.units) + data.draw(st.integers(1, 800))
    budget = Budget(bytes=min(problem.fixed_bytes + size, problem.float_bytes - 1) or 1)
    assert greedy(problem, budget).predicted_loss >= ilp(problem, budget).predicted_loss - 1e-8


def test_a_model_of_three_hundred_units_is_solved_to_the_byte():
    problem = model(units=300)
    solution = ilp(problem, "4.5bpw")
    assert 0 <= 4.5 - problem.bits_per_weight(solution.assignment) < 1e-3


def test_a_target_beyond_a_size_is_refused_with_both_that_can_be_had():
    with pytest.raises(
        InfeasibleBudget, match=r"least predicted loss is .* above the target of 0\.01; .* needs \d+ byt"
    ):
        ilp(model(), "3bpw,drop<=1%")


def test_without_scipy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependency, match=r"hf-quant\[plan\]"):
        ilp(model(), "4.5bpw")
