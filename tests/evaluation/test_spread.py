"""Medians and quartiles are those of numpy; paired ratios do not see a drift of the machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.spread import Spread, paired_ratio


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_quartiles_are_those_of_numpy(values):
    found = Spread.of(values)
    expected = np.percentile(values, [25, 50, 75])
    assert [found.low_quartile, found.median, found.high_quartile] == pytest.approx(expected.tolist())
    assert (found.count, found.minimum, found.maximum) == (len(values), min(values), max(values))


def test_nothing_measured_is_an_error():
    with pytest.raises(EvaluationError, match="nothing was measured"):
        Spread.of([])


@given(st.lists(st.floats(0.5, 50), min_size=1, max_size=20), st.floats(1.1, 9))
def test_a_machine_that_gets_slower_does_not_change_a_paired_ratio(drift, ratio):
    found = paired_ratio([ratio * slow for slow in drift], drift)
    assert found.median == pytest.approx(ratio) and found.maximum == pytest.approx(found.minimum)


def test_pairs_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired_ratio([1.0], [1.0, 2.0])
