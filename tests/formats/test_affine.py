"""The even grid: half a step of error at most, whatever the numbers, and never a finite answer from NaN."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import AffineFormat, format_of
from tests.naming import naming

WIDTHS = [2, 3, 4, 5, 6, 7, 8, 16]
FORMATS = [AffineFormat(bits, symmetric) for bits in WIDTHS for symmetric in (True, False)]
INPUT_FORMATS = [AffineFormat(bits, symmetric) for bits in (8, 16) for symmetric in (True, False)]
MAX, TINY = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def rows_of(limit):
    """Float32 rows up to `limit`, denormals and both zeros included."""
    number = st.floats(-limit, limit, width=32)
    return st.lists(number, min_size=1, max_size=12).map(lambda row: torch.tensor(row, dtype=torch.float32))


def on_grid(format, real):
    scale, zero_point = format.scale_and_zero_point(real.min(), real.max())
    codes = format.encode(real, scale, zero_point)
    return codes, scale, zero_point, format.decode(codes, scale, zero_point)


def half_a_step(format, scale):
    """Plus what float32 division and multiplication may round away, a few parts in 2**24 of the largest code."""
    return scale.double() * (0.5 + (format.quant_max - format.quant_min) * 2**-22)


@every_format
@settings(deadline=None, derandomize=True, max_examples=60)
@given(real=rows_of(2.0**120))
def test_a_round_trip_is_within_half_a_step(format, real):
    _, scale, _, decoded = on_grid(format, real)
    assert bool(((decoded.double() - real.double()).abs() <= half_a_step(format, scale)).all())


@every_format
@settings(deadline=None, derandomize=True, max_examples=60)
@given(real=rows_of(MAX))
def test_no_finite_numbers_decode_to_infinity(format, real):
    codes, scale, zero_point, decoded = on_grid(format, real)
    assert bool(torch.isfinite(scale)) and float(scale) >= TINY
    assert bool(torch.isfinite(decoded).all())
    assert int(codes.min()) >= format.quant_min and int(codes.max()) <= format.quant_max
    assert (zero_point is None) == format.symmetric


@every_format
def test_the_largest_floats_stay_finite_and_close(format):
    for extremes in ((-MAX, MAX), (0.0, MAX), (-MAX, 0.0), (MAX, MAX), (-MAX, 1.0), (-MAX, MAX / 2)):
        with naming(extremes):
            real = torch.tensor([*extremes, 0.0])
            _, scale, _, decoded = on_grid(format, real)
            assert bool(torch.isfinite(decoded).all())
            assert bool(((decoded.double() - real.double()).abs() <= 1.01 * scale.double()).all())


@every_format
@settings(deadline=None, derandomize=True, max_examples=40)
@given(real=rows_of(float(2.0**-126)))
def test_denormals_are_within_half_of_the_smallest_scale(format, real):
    _, scale, _, decoded = on_grid(format, real)
    assert bool(((decoded.double() - real.double()).abs() <= half_a_step(format, scale)).all())


@every_format
@settings(deadline=None, derandomize=True, max_examples=40)
@given(real=rows_of(2.0**100))
def test_zero_is_exact(format, real):
    scale, zero_point = format.scale_and_zero_point(real.min(), real.max())
    zero = torch.zeros(1)
    assert torch.equal(format.decode(format.encode(zero, scale, zero_point), scale, zero_point), zero)


@every_format
def test_a_row_of_zeros_stays_zero(format):
    codes, scale, zero_point, decoded = on_grid(format, torch.zeros(5))
    assert torch.equal(decoded, torch.zeros(5)) and float(scale) == TINY
    assert torch.equal(codes, torch.full((5,), 0 if zero_point is None else int(zero_point), dtype=format.dtype))


@every_format
def test_a_constant_row_is_kept_within_half_a_step_and_exactly_where_the_grid_ends_there(format):
    exact = not format.symmetric or format.bits >= 8
    for value in (1.0, -1.0, 3.14159, -0.001, 12345.678):
        with naming(value):
            real = torch.full((5,), value)
            _, scale, _, decoded = on_grid(format, real)
            tolerance = 1e-6 * abs(value) if exact else float(half_a_step(format, scale))
            assert torch.allclose(decoded, real, rtol=0, atol=tolerance)


@pytest.mark.parametrize("bits", WIDTHS)
def test_symmetric_formats_use_every_code_below_8_bits_and_leave_out_the_lowest_from_there(bits):
    format = AffineFormat(bits)
    assert format.quant_max == 2 ** (bits - 1) - 1
    assert format.quant_min == (-format.quant_max if bits >= 8 else -format.quant_max - 1)
    assert AffineFormat(bits, symmetric=False).quant_min == -format.quant_max - 1


@pytest.mark.parametrize("bits", [8, 16])
def test_both_extremes_are_exact_from_8_bits_up(bits):
    codes, scale, _, decoded = on_grid(AffineFormat(bits), torch.tensor([-2.0, 0.5, 2.0]))
    assert codes[0] == -codes[2] == AffineFormat(bits).quant_min
    assert decoded[0] == -decoded[2] and math.isclose(float(decoded[2]), 2.0, rel_tol=1e-6)
    assert math.isclose(float(scale), 2.0 / (2 ** (bits - 1) - 1), rel_tol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_below_8_bits_the_scale_splits_the_range_into_all_codes(bits):
    _, scale, _, _ = on_grid(AffineFormat(bits), torch.tensor([-3.0, 1.0]))
    assert math.isclose(float(scale), 6.0 / (2**bits - 1), rel_tol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_below_8_bits_the_lowest_code_is_that_of_the_weight_farthest_from_zero(bits):
    format = AffineFormat(bits)
    for row in ([-3.0, 1.0], [3.0, -1.0], [3.0, 2.0], [-3.0, -2.0], [-3.0, 3.0]):
        with naming(row):
            real = torch.tensor(row)
            scale, zero_point = format.weight_grid(real.min(), real.max())
            codes = format.encode(real, scale)
            assert zero_point is None and codes[0] == format.quant_min and format.decode(codes, scale)[0] == real[0]
            assert math.isclose(abs(float(scale)), 3.0 / 2 ** (bits - 1)) and (float(scale) < 0) == (row[0] > 0)


@every_format
@settings(deadline=None, derandomize=True, max_examples=60)
@given(real=rows_of(MAX))
def test_weights_of_any_size_are_within_a_step(format, real):
    scale, zero_point = format.weight_grid(real.min(), real.max())
    codes = format.encode(real, scale, zero_point)
    decoded = format.decode(codes, scale, zero_point)
    assert bool(scale.isfinite()) and abs(float(scale)) >= TINY and bool(decoded.isfinite().all())
    assert bool(((decoded.double() - real.double()).abs() <= 1.01 * scale.double().abs()).all())


@pytest.mark.parametrize("bits", [3, 4])
def test_negative_scales_lose_less_than_treating_both_sides_alike(bits):
    format, real = AffineFormat(bits), torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    extremes = torch.aminmax(real, dim=1, keepdim=True)
    signed, alike = (
        (format.decode(format.encode(real, scale), scale) - real).square().mean()
        for scale, _ in (format.weight_grid(*extremes), format.scale_and_zero_point(*extremes))
    )
    assert signed < 0.9 * alike


def test_ties_round_to_even():
    codes = AffineFormat(8).encode(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), torch.tensor(1.0))
    assert codes.tolist() == [0, 2, 2, 0, -2]


def test_values_outside_the_grid_take_its_last_code():
    assert AffineFormat(8).encode(torch.tensor([1e9, -1e9]), torch.tensor(1.0)).tolist() == [127, -127]
    assert AffineFormat(4).encode(torch.tensor([1e9, -1e9]), torch.tensor(1.0)).tolist() == [7, -8]
    codes = AffineFormat(8, False).encode(torch.tensor([1e9, -1e9]), torch.tensor(1.0), torch.tensor(-20))
    assert codes.tolist() == [127, -128]


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_and_zero_points_have_the_dtype_that_packing_reads(bits):
    scheme = TensorScheme(bits=bits, symmetric=False)
    codes, _, zero_point, _ = on_grid(format_of(scheme), torch.tensor([-1.0, 2.0]))
    assert codes.dtype == zero_point.dtype == (torch.int16 if bits == 16 else torch.int8)


@every_format
def test_the_range_given_is_not_changed(format):
    low, high = torch.tensor([1.0, -3.0]), torch.tensor([2.0, -1.0])
    format.scale_and_zero_point(low, high)
    assert low.tolist() == [1.0, -3.0] and high.tolist() == [2.0, -1.0]


@pytest.mark.parametrize("format", INPUT_FORMATS, ids=str)
def test_a_token_has_the_grid_it_would_have_alone(format):
    for shape, dtype in product([(6,), (3, 6), (2, 3, 6)], [torch.float32, torch.bfloat16, torch.float16]):
        with naming(shape, dtype):
            real = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            assert_tokens_have_their_own_grids(format, real)


def assert_tokens_have_their_own_grids(format, real):
    shape = real.shape
    codes, scale, zero_point = format.quantize_input(real)
    assert codes.shape == shape and scale.shape == (*shape[:-1], 1) and scale.dtype == torch.float32
    flat, scales = codes.reshape(-1, 6), scale.flatten()
    for index, token in enumerate(real.reshape(-1, 6).float()):
        alone, its_scale, its_zero_point, _ = on_grid(format, token)
        assert torch.equal(flat[index], alone) and scales[index] == its_scale
        assert zero_point is None or zero_point.flatten()[index] == its_zero_point


@pytest.mark.parametrize("format", INPUT_FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_per_tensor_all_tokens_share_one_grid(format, shape):
    real = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, scale, zero_point = format.quantize_input(real, per_tensor=True)
    expected, its_scale, its_zero_point, _ = on_grid(format, real.flatten())
    assert scale.shape == (1,) * len(shape) and scale.item() == its_scale
    assert torch.equal(codes.flatten(), expected)
    assert zero_point is None or zero_point.item() == its_zero_point


@pytest.mark.parametrize("format", INPUT_FORMATS, ids=str)
def test_nan_and_infinity_in_activations_never_decode_to_finite_numbers(format):
    for bad, per_token in product((math.nan, math.inf, -math.inf), (True, False)):
        with naming(bad, f"per_token={per_token}"):
            real = torch.ones(3, 4)
            real[1, 2] = bad
            decoded = format.decode(*format.quantize_input(real, per_tensor=not per_token))
            assert not torch.isfinite(decoded[1, 2])
            assert not torch.isfinite(decoded[1]).any() or not math.isnan(bad)
            if per_token:
                assert torch.allclose(decoded[[0, 2]], torch.ones(2, 4))


def test_quantizing_an_input_does_not_change_it():
    real = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = real.clone()
    for format in INPUT_FORMATS:
        format.quantize_input(real)
        format.quantize_input(real, per_tensor=True)
    assert torch.equal(real, before)
