"""The front holds what nothing beats, and all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.errors import ConfigError, InfeasibleBudget
from hf_quant.planner.pareto import front, sweep
from hf_quant.planner.search.base import Solution
from tests.planner.problems import model

SOLUTIONS = st.lists(
    st.builds(
        Solution,
        st.just("x"),
        st.tuples(st.integers()),
        st.integers(0, 5).map(float),
        st.integers(0, 5),
        st.none() | st.integers(0, 3).map(float),
        st.just(1),
    ),
    max_size=12,
)


def as_good(one, other):
    times = one.milliseconds, other.milliseconds
    return one.bytes <= other.bytes and one.loss <= other.loss and (None in times or times[0] <= times[1])


@given(SOLUTIONS)
def test_nothing_on_the_front_beats_another_and_what_is_not_on_it_is_beaten(solutions):
    kept = front(solutions)
    assert not any(as_good(one, other) for one in kept for other in kept if one is not other)
    if all(one.milliseconds is not None for one in solutions):
        assert all(any(as_good(one, other) for one in kept) for other in solutions)
    assert [one.bytes for one in kept] == sorted(one.bytes for one in kept)


@pytest.mark.parametrize("strategy", ["ilp", "greedy"])
def test_a_sweep_goes_from_the_smallest_model_to_one_that_loses_next_to_nothing(strategy):
    problem = model()
    found = sweep(problem, strategy, points=7)
    assert found[0].bytes == problem.totals((0,) * len(problem.units)).bytes
    assert found[-1].loss < 0.01 * found[0].loss
    assert [one.loss for one in found] == sorted((one.loss for one in found), reverse=True)


def test_a_sweep_keeps_to_milliseconds():
    problem = model(timed=True)
    assert all(one.milliseconds <= 2.0 for one in sweep(problem, milliseconds=2.0))
    with pytest.raises(InfeasibleBudget, match="fastest"):
        sweep(problem, milliseconds=0.2)


def test_a_sweep_of_one_point_is_refused():
    with pytest.raises(ConfigError, match="points"):
        sweep(model(), points=1)
