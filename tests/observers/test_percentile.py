import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.percentile import Percentile

both = pytest.mark.parametrize("symmetric", [True, False])


def range_of(values, symmetric, percentile, **options):
    observer = Percentile(AffineFormat(8, symmetric), percentile=percentile, **options)
    observer.update(values.reshape(-1, 1))
    return observer.range()


@both
@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40).map(torch.tensor),
    percentile=st.sampled_from([50, 75, 90, 99, 100]),
)
def test_the_range_holds_at_least_the_percentile(symmetric, row, percentile):
    low, high = range_of(row, symmetric, percentile)
    assert int(((low <= row) & (row <= high)).sum()) >= len(row) * percentile / 100


@both
def test_each_end_is_within_a_bin_of_the_quantile(symmetric):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) + 0.3
    low, high = range_of(values, symmetric, 99.0)
    if symmetric:
        torch.testing.assert_close(high, values.abs().quantile(0.99), rtol=0, atol=0.01)
        assert low == -high
    else:
        expected = values.quantile(torch.tensor([0.005, 0.995]))
        torch.testing.assert_close(torch.stack([low, high]), expected, rtol=0, atol=0.01)


@both
def test_outliers_are_clipped_on_whichever_side_they_are(symmetric):
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    values[:2] = torch.tensor([100.0, -90.0])
    low, high = range_of(values, symmetric, 99.99)
    assert -6 < low < -3 and 3 < high < 6


@both
def test_a_hundred_percent_is_everything(symmetric):
    values = torch.tensor([-3.0, 1.0, 7.0])
    assert [float(end) for end in range_of(values, symmetric, 100)] == [-3.0, 7.0]


def test_values_of_one_sign_keep_their_sign():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
    for symmetric in (True, False):
        low, high = range_of(values, symmetric, 99.0)
        assert 1 <= low < high < 2


@pytest.mark.parametrize("percentile", [0, -1, 100.1])
def test_a_percentile_that_cannot_be_is_refused(percentile):
    with pytest.raises(ConfigError, match="percentile"):
        Percentile(AffineFormat(8), percentile=percentile)
