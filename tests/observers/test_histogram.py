import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.histogram import Histogram
from hf_quant.observers.percentile import Percentile

LIMIT = float(torch.finfo(torch.float32).max)
rows = st.lists(st.floats(-LIMIT, LIMIT, width=32), min_size=1, max_size=30).map(torch.tensor)
numeric = settings(deadline=None, derandomize=True, max_examples=100)


@numeric
@given(values=rows, bins=st.integers(2, 64))
def test_every_value_is_counted_in_a_bin_that_holds_it(values, bins):
    counts, left, right = Histogram.of(values, bins).filled()
    assert counts.sum() == len(values)
    assert bool((left[1:] >= right[:-1]).all())
    for value in values.double():
        # A value at the edge of two bins is in the upper one, unless it is the highest.
        assert bool(((left <= value) & (value <= right)).any())


@numeric
@given(first=rows, second=rows, bins=st.integers(2, 64))
def test_parts_merge_into_the_histogram_of_the_whole(first, second, bins):
    merged = Histogram.of(first, bins).merged(Histogram.of(second, bins))
    whole = Histogram.of(torch.cat([first, second]), bins)
    assert torch.equal(merged.counts, whole.counts)
    assert merged.low == whole.low and merged.high == whole.high


@numeric
@given(values=rows, bins=st.integers(8, 64))
def test_bins_are_as_wide_as_a_power_of_two_and_at_most_twice_as_wide_as_needed(values, bins):
    width = Histogram.of(values, bins).width
    span = max(0.0, float(values.max())) - min(0.0, float(values.min()))
    assert math.frexp(width)[0] == 0.5
    assert width <= max(2 * span / (bins - 2), 2.0**-149)


def test_a_range_that_grows_past_every_power_of_two_keeps_all_counts():
    histogram = Histogram.of(torch.tensor([2.0**-140, -(2.0**-140)]), 16)
    for exponent in range(-130, 127):
        histogram = histogram.merged(Histogram.of(torch.tensor([2.0**exponent]), 16))
    assert histogram.counts.sum() == 2 + 257 and histogram.counts.shape == (16,)


def test_more_values_than_are_counted_at_a_time_are_all_counted():
    values = torch.arange(3 * 2**20 // 2, dtype=torch.float32)
    assert Histogram.of(values, 64).counts.sum() == len(values)


@pytest.mark.parametrize("bins", [1, 0, 2.5, True])
def test_a_number_of_bins_that_cannot_be_is_refused(bins):
    with pytest.raises(ConfigError, match="bins"):
        Percentile(AffineFormat(8), bins=bins)


def test_a_state_with_other_bins_is_refused():
    observer = Percentile(AffineFormat(8), bins=64)
    observer.update(torch.ones(2, 2))
    with pytest.raises(CalibrationError, match="64 bins: pass bins"):
        Percentile.from_state(AffineFormat(8), observer.state())
