"""The score interval of two shares, from its definition, and how often it holds the truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial, norm

from hf_quant.evaluation.paired_shares import score_interval

FLIPS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 400)).map(
    lambda each: (each[0], each[1], each[0] + each[1] + each[2])
)


def distance(to_wrong, to_right, examples, difference):
    """Standard errors between what was seen and `difference`; the other share is the likeliest, found by searching."""

    def unlikeliness(share):
        parts = (share + difference, share, 1 - 2 * share - difference)
        counts = (to_wrong, to_right, examples - to_wrong - to_right)
        return -sum(count * math.log(max(part, 1e-300)) for count, part in zip(counts, parts, strict=True) if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = minimize_scalar(unlikeliness, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = examples * (2 * share + difference - difference**2)
    return (to_wrong - to_right - examples * difference) / math.sqrt(variance)


@given(FLIPS)
@settings(deadline=None)
def test_the_ends_are_as_far_from_what_was_seen_as_the_confidence_says(flips):
    low, high = score_interval(*flips, 0.95)
    assert distance(*flips, low) == pytest.approx(norm.ppf(0.975), rel=1e-2)
    assert distance(*flips, high) == pytest.approx(norm.ppf(0.025), rel=1e-2)


@given(FLIPS, st.floats(0.5, 0.999))
def test_it_holds_what_was_seen_turns_around_and_widens(flips, confidence):
    to_wrong, to_right, examples = flips
    low, high = score_interval(*flips, confidence)
    assert -1 <= low <= (to_wrong - to_right) / examples <= high <= 1
    assert score_interval(to_right, to_wrong, examples, confidence) == (
        pytest.approx(-high, abs=1e-9),
        pytest.approx(-low, abs=1e-9),
    )
    wide = score_interval(*flips, (1 + confidence) / 2)
    assert wide[0] < low and high < wide[1]


def test_without_flips_it_is_as_wide_as_the_examples_are_few():
    square = norm.ppf(0.975) ** 2
    for examples in (1, 30, 1000):
        high = square / (examples + square)
        assert score_interval(0, 0, examples, 0.95) == (pytest.approx(-high), pytest.approx(high))


@pytest.mark.parametrize("flips", [(1, 0, 1), (5, 0, 5), (0, 5, 5), (3, 3, 6), (0, 0, 1)])
def test_ends_are_differences_also_where_all_have_flipped(flips):
    low, high = score_interval(*flips, 0.95)
    assert -1 <= low < high <= 1


@pytest.mark.parametrize(("to_wrong", "to_right"), [(0.03, 0.01), (0.1, 0.05), (0.3, 0.1), (0.02, 0.02)])
def test_it_holds_the_truth_as_often_as_it_says_over_all_outcomes(to_wrong, to_right):
    examples = 60
    held = 0.0
    for counts in itertools.product(range(examples + 1), repeat=2):
        if sum(counts) > examples:
            continue
        part = multinomial.pmf(
            [*counts, examples - sum(counts)], examples, [to_wrong, to_right, 1 - to_wrong - to_right]
        )
        if part > 1e-7:
            low, high = score_interval(*counts, examples, 0.95)
            held += part * (low <= to_wrong - to_right <= high)
    # With next to no flips there are few intervals to choose from, and none that misses more often.
    assert 0.93 < held < (0.97 if to_wrong + to_right >= 0.1 else 0.995)


def test_many_flips_give_what_a_normal_distribution_gives():
    low, high = score_interval(4000, 3000, 100_000, 0.95)
    error = math.sqrt(7000 - 1000**2 / 100_000) / 100_000
    np.testing.assert_allclose([low, high], [0.01 - 1.96 * error, 0.01 + 1.96 * error], rtol=2e-3)
