"""A budget becomes numbers for one problem, or a message with the least that can be asked for."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_quant.errors import InfeasibleBudget, PlanError
from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Totals
from tests.planner.problems import everything, model, problems


def test_sizes_in_all_forms_become_bytes_and_the_smallest_holds():
    problem = model()
    assert limits_of(problem, "4.4bpw").bytes == problem.fixed_bytes + 44 * problem.weights // 80
    assert limits_of(problem, "25%").bytes == problem.float_bytes // 4
    assert limits_of(problem, "4.4bpw,1GB,99%").bytes == limits_of(problem, "4.4bpw").bytes


@pytest.mark.parametrize(("tiny", "unit"), [("1B", "B"), ("0.001MiB", "MiB"), ("0.1bpw", "bpw"), ("0.1%", "%")])
def test_the_least_that_the_message_names_is_feasible_and_in_the_same_unit(tiny, unit):
    problem = model()
    with pytest.raises(InfeasibleBudget, match="smallest model") as raised:
        limits_of(problem, tiny)
    enough = re.search(r"needs (\S+?)\. ", str(raised.value))[1]
    assert enough.endswith(unit)
    least = min(totals.bytes for totals in [problem.totals((0,) * len(problem.units))])
    assert least <= limits_of(problem, enough).bytes < 1.02 * least


@settings(deadline=None)
@given(data=st.data())
def test_budgets_of_what_an_assignment_takes_are_feasible(data):
    problem = data.draw(problems(timed=True))
    _, totals = data.draw(st.sampled_from(list(everything(problem))))
    assume(totals.bytes > 0 and totals.milliseconds > 0)
    assert limits_of(problem, Budget(bytes=totals.bytes)).allow(totals)
    # With a size of the same that float does not keep, the time is never refused as one that float keeps.
    both = Budget(bytes=totals.bytes, milliseconds=totals.milliseconds)
    assert limits_of(problem, both).allow(totals)


def test_too_little_time_names_the_least():
    with pytest.raises(InfeasibleBudget, match=r"0\.2ms cannot be kept: the fastest model .* needs 1\.\d+ms"):
        limits_of(model(timed=True), "0.2ms")


def test_times_that_are_not_known_are_asked_for():
    with pytest.raises(PlanError, match=r"those of layers\.0 as W2A16 are not known"):
        limits_of(model(), "20ms")


@pytest.mark.parametrize("budget", ["1GB", "32bpw", "100%", "1000ms", "1GB,1000ms"])
def test_a_budget_that_float_keeps_is_refused(budget):
    with pytest.raises(InfeasibleBudget, match="float model keeps to"):
        limits_of(model(timed=True), budget)


def test_a_size_that_float_keeps_is_no_fault_where_time_is_short_or_the_smallest_is_wanted():
    assert limits_of(model(timed=True), "1GB,5ms").milliseconds == 5
    assert limits_of(model(), "1GB,drop<=1%").loss == 0.01


def test_limits_are_kept_exactly():
    limits = Limits(bytes=100, milliseconds=1.0)
    assert limits.allow(Totals(100, 0.0, 1.0)) and limits.excess(Totals(100, 0.0, 1.0)) == 0
    for totals in (Totals(101, 0.0, 1.0), Totals(100, 0.0, 1.0000000000000002), Totals(100, 0.0, None)):
        assert not limits.allow(totals) and limits.excess(totals) > 0


def test_with_a_target_small_models_that_meet_it_come_first():
    limits = Limits(loss=0.1)
    small, large, lossy = ((Totals(size, 0.0, None), loss) for size, loss in ((10, 0.1), (20, 0.0), (1, 0.2)))
    assert limits.rank(*small) < limits.rank(*large) < limits.rank(*lossy)
