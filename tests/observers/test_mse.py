import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import grid
from hf_quant.observers.histogram import Histogram
from hf_quant.observers.minmax import MinMax
from hf_quant.observers.mse import MeanSquaredError, expected_squared_error
from hf_quant.observers.percentile import Percentile

FORMATS = [AffineFormat(bits, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)]
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def samples(kind):
    torch_state = torch.Generator().manual_seed(0)
    normal = torch.randn(20_000, 1, generator=torch_state)
    uniform = torch.rand(20_000, 1, generator=torch_state)
    with_outliers = normal.clone()
    with_outliers[:3, 0] = torch.tensor([40.0, 55.0, -20.0])
    kinds = {"normal": normal, "shifted": normal + 2, "relu": normal.relu(), "uniform": uniform, "cubed": normal**3}
    return {**kinds, "outliers": with_outliers}[kind]


def squared_error(observer, values):
    scale, zero_point = grid(observer)
    decoded = observer.format.decode(observer.format.encode(values, scale, zero_point), scale, zero_point)
    return float((decoded.double() - values.double()).square().mean())


def seen(observer, values):
    observer.update(values)
    return observer


@every_format
@pytest.mark.parametrize("kind", ["normal", "shifted", "relu", "uniform", "cubed", "outliers"])
def test_the_squared_error_is_no_worse_than_with_extremes_or_percentiles(format, kind):
    values = samples(kind)
    error = squared_error(seen(MeanSquaredError(format), values), values)
    for other in (MinMax(format), Percentile(format, percentile=99.9)):
        assert error <= 1.02 * squared_error(seen(other, values), values)


@every_format
@settings(deadline=None, derandomize=True, max_examples=30)
@given(row=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=20).map(torch.tensor))
def test_the_error_that_is_expected_is_never_above_that_of_the_extremes(format, row):
    observer = seen(MeanSquaredError(format, bins=256), row[:, None])
    bins = Histogram(**observer.state()).filled()
    ranges = torch.stack([torch.stack(observer.range()), torch.stack(torch.aminmax(row))], dim=1)
    chosen, extremes = expected_squared_error(format, *ranges, *bins)
    assert chosen <= extremes * (1 + 1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
def test_outliers_are_clipped_where_steps_are_dear(symmetric):
    low, high = seen(MeanSquaredError(AffineFormat(4, symmetric)), samples("outliers")).range()
    assert -6 < low < -1.5 and 1.5 < high < 12


def test_nothing_is_clipped_where_steps_cost_nothing():
    values = samples("normal")
    low, high = seen(MeanSquaredError(AffineFormat(16)), values).range()
    assert low == values.min() and high == values.max()


def test_the_optimum_for_a_normal_distribution_is_the_known_one():
    # 4 bits: the best uniform quantizer of 16 levels has steps of 0.3352 standard deviations (Max, 1960).
    scale, _ = grid(seen(MeanSquaredError(AffineFormat(4, symmetric=False)), samples("normal")))
    assert abs(float(scale) - 0.3352) < 0.02


@every_format
@pytest.mark.parametrize("edge", [0.5, 1.0, 4.0])
def test_the_expected_error_is_that_of_values_spread_over_the_bins(format, edge):
    left, right = torch.tensor([-1.5, 0.2, 2.0]).double(), torch.tensor([-0.5, 0.2, 3.0]).double()
    counts = torch.tensor([3.0, 1.0, 2.0]).double()
    low, high = torch.tensor([-edge]), torch.tensor([edge])
    spread = torch.lerp(left, right, (torch.arange(200_000).double()[:, None] + 0.5) / 200_000).float()
    decoded = format.decode(
        format.encode(spread, *format.scale_and_zero_point(low, high)), *format.scale_and_zero_point(low, high)
    )
    expected = ((decoded - spread).double().square().mean(0) @ counts) / counts.sum()
    found = expected_squared_error(format, low, high, counts, left, right)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-9)
