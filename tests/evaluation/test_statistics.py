"""Intervals and tests, against direct computations and SciPy."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.statistics import (
    Bootstrap,
    exchange_test,
    interval,
    interval_of_sums,
    leave_one_out,
    multiplicities,
)

CONTRIBUTIONS = arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.floats(-1e3, 1e3))


def mean(sums):
    return sums[..., 0] / sums[..., 1]


@given(CONTRIBUTIONS, st.integers(0, 99), st.integers(1, 40))
@settings(deadline=None)
def test_sums_of_resamples_are_those_of_the_examples_drawn(contributions, seed, resamples):
    bootstrap = Bootstrap(resamples, seed)
    draws = np.concatenate(list(bootstrap.draws(len(contributions))))
    assert draws.shape == (resamples, len(contributions))
    np.testing.assert_allclose(bootstrap.sums(contributions), contributions[draws].sum(1), atol=1e-8)


def test_resamples_in_parts_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr("hf_quant.evaluation.statistics._NUMBERS_AT_ONCE", 64)
    parts = list(Bootstrap(resamples=25).draws(10))
    assert [len(part) for part in parts] == [6, 6, 6, 6, 1]


@given(st.integers(1, 20), st.integers(1, 10), st.integers(0, 9))
def test_multiplicities_count_each_draw(examples, rows, seed):
    draws = np.random.default_rng(seed).integers(examples, size=(rows, examples))
    expected = [[(row == index).sum() for index in range(examples)] for row in draws]
    np.testing.assert_array_equal(multiplicities(draws), expected)


@given(CONTRIBUTIONS)
def test_leaving_one_out_leaves_the_others(contributions):
    expected = [np.delete(contributions, index, axis=0).sum(0) for index in range(len(contributions))]
    np.testing.assert_allclose(leave_one_out(contributions), expected, atol=1e-8)


@given(arrays(np.float64, st.integers(0, 50), elements=st.floats(-10, 10)), st.floats(-10, 10), st.floats(0.01, 0.99))
def test_an_interval_lies_within_the_replicates_and_is_in_order(replicates, point, confidence):
    low, high = interval(point, replicates, confidence=confidence)
    if len(replicates) == 0 or np.ptp(replicates) == 0:
        assert (low, high) == (point, point)
    else:
        assert replicates.min() <= low <= high <= replicates.max()


@given(CONTRIBUTIONS.filter(lambda each: len(each) > 3), st.integers(0, 9))
@settings(deadline=None)
def test_an_interval_turns_around_with_the_sign(contributions, seed):
    def total(sums):
        return sums[..., 0]

    low, high = interval_of_sums(total, contributions, Bootstrap(100, seed))[1:]
    opposite = interval_of_sums(total, -contributions, Bootstrap(100, seed))[1:]
    scale = 1e-6 * max(1.0, abs(low), abs(high))
    assert opposite == (pytest.approx(-high, abs=scale), pytest.approx(-low, abs=scale))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_are_those_of_scipy(confidence):
    skewed = np.random.default_rng(0).lognormal(size=60)
    pairs = np.stack([skewed, np.ones(60)], axis=1)
    _, low, high = interval_of_sums(mean, pairs, Bootstrap(20000, 0, confidence))
    generator = np.random.default_rng(1)
    other = scipy.stats.bootstrap(
        (skewed,), np.mean, n_resamples=20000, confidence_level=confidence, method="BCa", rng=generator
    ).confidence_interval
    plain = np.quantile(Bootstrap(20000).sums(pairs)[:, 0] / 60, [(1 - confidence) / 2, (1 + confidence) / 2])
    width = high - low
    assert abs(low - other.low) < 0.03 * width and abs(high - other.high) < 0.03 * width
    # Without the corrections it is another one.
    assert abs(plain[1] - other.high) > 0.03 * width


def test_replicates_that_are_not_finite_are_left_out():
    replicates = np.random.default_rng(0).normal(size=500)
    spoiled = np.concatenate([replicates, [np.nan, np.inf, -np.inf]])
    assert interval(0.0, spoiled) == interval(0.0, replicates)
    assert interval(0.0, replicates, np.array([np.inf, 1.0])) == interval(0.0, replicates)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
@settings(deadline=None)
def test_the_exchange_test_counts_all_assignments_of_signs(differences):
    values = np.array(differences)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product([-1, 1], repeat=len(values))]
    assert exchange_test(values) == pytest.approx(np.mean(np.array(sums) >= abs(values.sum())))


@pytest.mark.parametrize(("to_wrong", "to_right"), [(0, 0), (5, 5), (12, 3), (0, 9), (300, 240)])
def test_with_one_answer_an_example_it_is_mcnemars_exact_test(to_wrong, to_right):
    differences = np.array([1] * to_wrong + [-1] * to_right + [0] * 7)
    count = to_wrong + to_right
    expected = scipy.stats.binomtest(to_wrong, count).pvalue if count else 1.0
    assert exchange_test(differences) == pytest.approx(expected)


def test_the_exchange_test_agrees_with_random_exchanges_of_many_examples():
    generator = np.random.default_rng(0)
    values = generator.integers(-4, 6, size=300)
    signs = generator.choice([-1, 1], size=(20000, 300))
    seen = (np.abs(signs @ values) >= abs(values.sum())).mean()
    assert exchange_test(values) == pytest.approx(seen, abs=0.003)
    # What rounding leaves of a part that is far smaller.
    assert 0 < exchange_test(np.full(200, 3)) < 1e-14


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        pairs = np.stack([generator.exponential(size=80), np.ones(80)], axis=1)
        _, low, high = interval_of_sums(mean, pairs, Bootstrap(400))
        held += low <= 1.0 <= high
    assert 0.91 < held / 300 < 0.98


@pytest.mark.parametrize(
    "options",
    [{"resamples": 0}, {"resamples": True}, {"seed": -1}, {"seed": 0.5}, {"confidence": 1}, {"confidence": 95}],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(EvaluationError, match=next(iter(options))):
        Bootstrap(**options)
