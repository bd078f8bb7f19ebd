import pytest
import torch

from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.histogram_kl import HistogramKL, divergences

both = pytest.mark.parametrize("symmetric", [True, False])


def normal(count=50_000):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(0))


def range_of(values, format):
    observer = HistogramKL(format)
    observer.update(values)
    return observer.range()


@both
@pytest.mark.parametrize("bits", [4, 8])
def test_outliers_are_clipped_and_the_rest_is_kept(bits, symmetric):
    values = normal()
    values[:3, 0] = torch.tensor([60.0, 80.0, -30.0])
    low, high = range_of(values, AffineFormat(bits, symmetric))
    assert -6 < low < -2.5 and 2.5 < high < 6


@both
def test_without_outliers_little_is_clipped(symmetric):
    values = normal()
    low, high = range_of(values, AffineFormat(8, symmetric))
    kept = ((low <= values) & (values <= high)).float().mean()
    assert kept > 0.999


@both
def test_many_zeros_as_after_a_relu_do_not_outweigh_the_rest(symmetric):
    values = normal().relu()
    low, high = range_of(values, AffineFormat(8, symmetric))
    assert low == 0 and (values <= high).float().mean() > 0.999


def test_the_two_ends_are_clipped_apart():
    values = normal().exp()  # long on one side
    values[0, 0] = 800.0
    low, high = range_of(values, AffineFormat(8, symmetric=False))
    assert low == 0 and 10 < high < 200


@both
def test_a_format_with_more_codes_than_bins_gets_the_full_range(symmetric):
    values = normal()
    low, high = range_of(values, AffineFormat(16, symmetric))
    assert low == values.min() and high == values.max()


def test_codes_that_tell_bins_apart_lose_nothing_and_clipping_costs():
    counts, centers = torch.tensor([5.0, 2.0, 9.0]).double(), torch.tensor([-1.0, 0.0, 1.0]).double()
    whole, cut, empty = divergences(
        AffineFormat(8), torch.tensor([-1.0, -0.5, 0.2]), torch.tensor([1.0, 1.0, 0.4]), counts, centers
    )
    assert whole == 0 and cut > 0.01 and empty == torch.inf


def test_bins_that_share_a_code_are_told_as_their_mean():
    counts, centers = torch.tensor([8.0, 2.0]).double(), torch.tensor([0.99, 1.0]).double()
    found = divergences(AffineFormat(2), torch.tensor([-1.0]), torch.tensor([1.0]), counts, centers)
    p, q = torch.tensor([0.8, 0.2]).double(), torch.tensor([0.5, 0.5]).double()
    torch.testing.assert_close(found[0], (p * (p / q).log()).sum())
