"""Choice of scales: the best of the ranges tried, under scales as they are stored."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.algorithms.grids import Clipping, choose, choose_one, squared_error
from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat

FORMATS = [
    AffineFormat(bits, symmetric, dtype)
    for bits in (2, 3, 4, 8)
    for symmetric in (True, False)
    for dtype in (torch.float32, torch.bfloat16)
]
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def error_of(real, grid, format, importance=None):
    """By way of codes, in float64."""
    scale, zero_point = grid
    zero = None if zero_point is None else zero_point[..., None]
    rounded = format.decode(format.encode(real, scale[..., None], zero), scale[..., None], zero)
    squares = (real.double() - rounded.double()).square()
    return (squares if importance is None else squares * importance.double()).sum(-1)


@every_format
def test_without_clipping_grids_are_those_of_the_extremes(format):
    real = numbers(5, 3, 16)
    low, high = torch.aminmax(real, dim=-1)
    expected = format.weight_grid(low, high)
    found = choose(real, low, high, format)
    assert torch.equal(found[0], expected[0])
    assert (found[1] is None and expected[1] is None) or torch.equal(found[1], expected[1])


@every_format
@pytest.mark.parametrize("weighed", [False, True])
def test_the_grid_is_the_best_of_all_that_are_tried(format, weighed):
    real = numbers(5, 3, 16)
    importance = numbers(3, 16, seed=1).square() if weighed else None
    low, high = torch.aminmax(real, dim=-1)
    clipping = Clipping(trials=17, narrowest=0.3)
    tried = [
        error_of(real, format.weight_grid(low * share, high * share), format, importance) for share in clipping.shares()
    ]
    found = error_of(real, choose(real, low, high, format, clipping, importance), format, importance)
    assert torch.allclose(found, torch.stack(tried).amin(0), rtol=1e-5)


@every_format
def test_scales_are_numbers_that_their_dtype_holds(format):
    real = numbers(5, 16)
    scale, _ = choose(real, *torch.aminmax(real, dim=-1), format, Clipping())
    assert torch.equal(scale.to(format.scale_dtype).float(), scale)


@every_format
def test_one_grid_for_a_tensor_does_not_depend_on_its_blocks(format):
    real, importance = numbers(12, 16), numbers(16, seed=1).square()
    low, high = torch.aminmax(real)
    whole = choose(real.flatten(), low, high, format, Clipping(), importance.repeat(12))
    for size in (1, 5, 12):
        found = choose_one(real.split(size), low, high, format, Clipping(), importance)
        assert found[0].shape == (1, 1)
        assert torch.equal(found[0].view(()), whole[0])
        assert (found[1] is None) == format.symmetric and (found[1] is None or torch.equal(found[1].view(()), whole[1]))


def test_few_bits_are_clipped_and_inputs_that_matter_are_not():
    format = AffineFormat(bits=3)
    real = numbers(1, 256)
    real[0, 7] = 6.0
    low, high = torch.aminmax(real, dim=-1)
    whole, clipped = choose(real, low, high, format)[0], choose(real, low, high, format, Clipping())[0]
    importance = torch.full((256,), 1e-3)
    importance[7] = 1e3
    guarded = choose(real, low, high, format, Clipping(), importance)[0]
    # The lowest code is that of 6.
    assert float(whole) == float(guarded) == -1.5
    assert abs(float(clipped)) < 0.8 * 1.5


def test_nothing_that_matters_leaves_the_range_whole():
    format = AffineFormat(bits=2)
    real = numbers(4, 32)
    low, high = torch.aminmax(real, dim=-1)
    assert torch.equal(
        choose(real, low, high, format, Clipping(), torch.zeros(32))[0], choose(real, low, high, format)[0]
    )


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    format=st.sampled_from(FORMATS),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
)
def test_any_finite_numbers_get_a_finite_grid_no_worse_than_the_whole_range(format, values):
    real = torch.tensor([values], dtype=torch.float32)
    low, high = torch.aminmax(real, dim=-1)
    grid = choose(real, low, high, format, Clipping())
    assert bool(grid[0].isfinite().all()) and bool((grid[0] != 0).all())
    whole = choose(real, low, high, format)
    found, kept = (squared_error(real, *each, format) for each in (grid, whole))
    assert bool((found <= kept).all())


@every_format
def test_errors_are_those_of_the_codes(format):
    real, importance = numbers(6, 40), numbers(40, seed=1).square()
    grid = format.weight_grid(*torch.aminmax(real * 0.7, dim=-1))
    expected = error_of(real, grid, format, importance)
    assert torch.allclose(squared_error(real, *grid, format, importance).double(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"trials": 1}, {"trials": True}, {"trials": 2.0}, {"narrowest": 0.0}, {"narrowest": 1.0}, {"narrowest": 1}],
)
def test_an_option_that_is_out_of_range_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Clipping(**options)


def test_the_first_range_is_whole_and_the_last_the_narrowest():
    shares = Clipping(trials=5, narrowest=0.5).shares()
    assert shares == [1.0, 0.875, 0.75, 0.625, 0.5]
