"""Round to nearest: the codes of the formula, whatever the source dtype and however the work is cut into blocks."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.algorithms import SOLVERS, rtn
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack, words_per_row
from hf_quant.kernels.native.weights import can_quantize
from tests.naming import naming
from tests.quantized_linear import DTYPES, run_python
from tests.zero_points import zero_points_of

GRAINS = [("tensor", None), ("channel", None), ("group", 8), ("group", 16)]
SCHEMES = [
    TensorScheme(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size)
    for bits in FORMATS["int"].bits
    for symmetric in (True, False)
    for granularity, size in GRAINS
]
every_scheme = pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: f"{s.bits}-{'sym' if s.symmetric else 'asym'}-{s.granularity}-{s.group_size}"
)


def random_weight(rows=6, width=48, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * torch.logspace(-3, 1, rows)[:, None]
    weight[1] = 0.0
    weight[2] = 0.75
    return weight.to(dtype)


def parts_of(weight, scheme):
    """Rows of numbers that share a scale, in float64, and the shape of the scales."""
    rows, width = weight.shape
    size = {"tensor": rows * width, "channel": width, "group": scheme.group_size}[scheme.granularity]
    shape = (1, 1) if scheme.granularity == "tensor" else (rows, width // size)
    return weight.double().numpy().reshape(-1, size), shape


def formula(weight, scheme):
    """Steps and zero points from the extremes of each part, in float64."""
    parts, shape = parts_of(weight, scheme)
    if scheme.symmetric:
        # From 8 bits up the extremes are codes of their own; below, the lowest code is that of the one that is farther.
        if scheme.bits >= 8:
            return (np.abs(parts).max(1) / (2 ** (scheme.bits - 1) - 1)).reshape(shape), np.zeros(shape)
        low, high = parts.min(1), parts.max(1)
        return np.where(high > -low, high, low).reshape(shape) / -(2 ** (scheme.bits - 1)), np.zeros(shape)
    low, high = np.minimum(parts.min(1), 0), np.maximum(parts.max(1), 0)
    scale = np.maximum((high - low) / (2**scheme.bits - 1), np.finfo(np.float32).tiny)
    return scale.reshape(shape), (-(2 ** (scheme.bits - 1)) - low / scale).reshape(shape)


def decoded(solved, scheme, shape):
    codes = unpack(solved["codes"], scheme.bits, shape[1])
    format = format_of(scheme)
    if scheme.granularity == "tensor":
        return format.decode(codes, solved["scale"], zero_points_of(solved, scheme))
    grouped = codes.unflatten(-1, (solved["scale"].shape[1], -1))
    zero_point = zero_points_of(solved, scheme)
    zero_point = None if zero_point is None else zero_point[..., None]
    return format.decode(grouped, solved["scale"][..., None], zero_point).flatten(-2)


@every_scheme
def test_scales_and_zero_points_are_those_of_the_formula(scheme):
    for dtype in DTYPES:
        with naming(dtype):
            assert_formula(random_weight(dtype=dtype), scheme)


def assert_formula(weight, scheme):
    solved = RoundToNearest().solve(weight, scheme, "weight")
    scale, zero_point = formula(weight, scheme)
    assert solved["scale"].dtype == format_of(scheme).scale_dtype and solved["scale"].shape == scale.shape
    found, wanted = solved["scale"].double().numpy(), np.where(scale == 0, np.finfo(np.float32).tiny, scale)
    # Those of groups are rounded to bfloat16, and zero points follow the rounded scale.
    assert np.allclose(found, wanted, rtol=2.0**-8 if scheme.granularity == "group" else 1e-6)
    if scheme.granularity == "group":
        parts, shape = parts_of(weight, scheme)
        zero_point = -(2 ** (scheme.bits - 1)) - np.minimum(parts.min(1), 0).reshape(shape) / found
    assert (solved.get("zero_point") is None) == scheme.symmetric
    if solved.get("zero_point") is not None:
        zeros = zero_points_of(solved, scheme)
        # Float32 may fall on the other side of a tie; then both neighbours are as near.
        assert (np.abs(zeros.double().numpy() - zero_point) <= 0.5 + 2.0 ** (scheme.bits - 20)).all()


@every_scheme
def test_every_weight_takes_the_nearest_code(scheme):
    for dtype in DTYPES:
        with naming(dtype):
            assert_nearest_codes(random_weight(dtype=dtype), scheme)


def assert_nearest_codes(weight, scheme):
    solved = RoundToNearest().solve(weight, scheme, "weight")
    assert solved["codes"].dtype == torch.int32 and solved["codes"].shape == (6, words_per_row(48, scheme.bits))
    error = (decoded(solved, scheme, weight.shape).double() - weight.double()).abs()
    scale = solved["scale"].double()
    steps = scale if scheme.granularity == "tensor" else scale.repeat_interleave(48 // scale.shape[1], 1)
    # A scale that was rounded to bfloat16 may end short of the extremes, by its error times the number of codes.
    short = 2.0 ** (scheme.bits - (8 if scheme.granularity == "group" else 22))
    # The side whose codes end a step earlier is clipped there.
    clipped = scheme.symmetric & (weight.double() / steps > 2 ** (scheme.bits - 1) - 0.5) & (scheme.bits < 8)
    assert bool((error <= steps.abs() * (torch.where(clipped, 1.0, 0.5) + short)).all())


@every_scheme
def test_codes_are_those_of_the_formula(scheme):
    weight = random_weight()
    solved = RoundToNearest().solve(weight, scheme, "weight")
    parts, _ = parts_of(weight, scheme)
    scale = solved["scale"].float().numpy().reshape(-1, 1)
    zero = 0 if scheme.symmetric else zero_points_of(solved, scheme).numpy().astype(np.int64).reshape(-1, 1)
    half = 2 ** (scheme.bits - 1)
    codes = np.rint(parts.astype(np.float32) * (np.float32(1) / scale)).astype(np.int64) + zero
    lowest = -half + 1 if scheme.symmetric and scheme.bits >= 8 else -half
    expected = np.clip(codes, lowest, half - 1).reshape(6, 48)
    assert np.array_equal(unpack(solved["codes"], scheme.bits, 48).numpy(), expected)


@every_scheme
def test_half_precision_sources_give_what_their_float32_values_give(scheme):
    for dtype in (torch.bfloat16, torch.float16):
        with naming(dtype):
            weight = random_weight(dtype=dtype)
            half, single = (RoundToNearest().solve(source, scheme, "weight") for source in (weight, weight.float()))
            assert half.keys() == single.keys()
            assert all(torch.equal(half[name], single[name]) for name in half)


@every_scheme
def test_blocks_do_not_change_the_result(scheme, monkeypatch):
    weight = random_weight(rows=9)
    whole = RoundToNearest().solve(weight, scheme, "weight")
    for numbers in (1, 48, 100, 10**9):
        monkeypatch.setattr(rtn, "_BLOCK_NUMBERS", numbers)
        with naming(f"{numbers} numbers a block"):
            blocks = RoundToNearest().solve(weight, scheme, "weight")
            assert all(torch.equal(whole[name], blocks[name]) for name in whole)


@every_scheme
def test_the_weight_may_be_a_transposed_view_and_is_not_changed(scheme):
    weight = random_weight(16, 48)
    before = weight.clone()
    straight = RoundToNearest().solve(weight, scheme, "weight")
    turned = RoundToNearest().solve(weight.t().contiguous().t(), scheme, "weight")
    assert all(torch.equal(straight[name], turned[name]) for name in straight)
    assert torch.equal(weight, before)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    scheme=st.sampled_from(SCHEMES),
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    numbers=st.data(),
)
def test_any_finite_weight_comes_back_finite_and_within_a_step(scheme, rows, groups, numbers):
    width = groups * (scheme.group_size or 5)
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = numbers.draw(st.lists(number, min_size=rows * width, max_size=rows * width))
    weight = torch.tensor(values, dtype=torch.float32).view(rows, width)
    solved = RoundToNearest().solve(weight, scheme, "weight")
    real = decoded(solved, scheme, weight.shape)
    assert bool(torch.isfinite(real).all()) and bool((solved["scale"] != 0).all())
    scale = solved["scale"].double().abs()
    steps = scale if scheme.granularity == "tensor" else scale.repeat_interleave(width // scale.shape[1], 1)
    # One code is left out on one side, and a scale may be 2 ** -9 too small, which the farthest number sees most of.
    limit = 1.01 + 2.0 ** (scheme.bits - 10) if scheme.bits < 8 else 1.6
    assert bool(((real.double() - weight.double()).abs() <= limit * steps).all())


@every_scheme
def test_a_weight_that_is_not_finite_is_a_typed_error(scheme):
    for value, dtype in product((math.nan, math.inf, -math.inf), DTYPES):
        weight = random_weight(dtype=dtype)
        weight[4, 31] = value
        message = r"layer\.weight holds NaN or Inf.*modules_to_not_convert"
        with naming(value, dtype), pytest.raises(WeightError, match=message):
            RoundToNearest().solve(weight, scheme, "layer.weight")


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,), (2, 3, 4), ()])
def test_only_matrices_with_elements_are_taken(shape):
    with pytest.raises(WeightError, match=r"layer\.weight has shape .* only matrices with elements"):
        RoundToNearest().solve(torch.zeros(shape), TensorScheme(), "layer.weight")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.bool])
def test_integers_are_taken_for_a_checkpoint_that_is_quantized_already(dtype):
    with pytest.raises(WeightError, match=f"layer.weight holds {dtype}, not floats: .*quantized already"):
        RoundToNearest().solve(torch.ones(4, 8, dtype=dtype), TensorScheme(), "layer.weight")


def test_the_solver_is_in_the_table_and_needs_no_statistics():
    assert SOLVERS["rtn"] is RoundToNearest and RoundToNearest.needs == frozenset()


def test_tensors_go_by_the_names_of_quantized_modules():
    weight = random_weight()
    symmetric = RoundToNearest().solve(weight, TensorScheme(), "weight")
    asymmetric = RoundToNearest().solve(weight, TensorScheme(symmetric=False), "weight")
    assert list(symmetric) == ["codes", "scale"]
    assert list(asymmetric) == ["codes", "scale", "zero_point"]


PEAK = """
    import resource, torch
    from hf_quant.algorithms.rtn import RoundToNearest
    from hf_quant.config.scheme import TensorScheme

    for granularity in ("channel", "tensor"):
        scheme = TensorScheme(bits=4, granularity=granularity)
        RoundToNearest().solve(torch.ones(64, 2048, dtype=torch.bfloat16), scheme, "warm-up")
        weight = torch.ones(8192, 4096, dtype=torch.bfloat16)  # 64 MB; 128 MB in float32
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        RoundToNearest().solve(weight, scheme, "weight")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        del weight
"""


def test_a_large_bfloat16_weight_is_never_whole_in_float32():
    pytest.importorskip("resource", reason="peak memory is read by getrusage")
    growth = [int(kilobytes) for kilobytes in run_python(PEAK).split()]
    # The codes take 16 MB; a float32 copy would take 128 MB.
    assert max(growth) < 64 * 1024


@every_scheme
def test_native_and_python_code_round_alike_to_the_last_bit(scheme, monkeypatch):
    if not can_quantize(random_weight(rows=9), scheme):
        pytest.skip("rounded in Python anyway")
    for rotation, dtype in product((None, 16), DTYPES):
        with naming(f"rotation={rotation}", dtype), monkeypatch.context() as without_native:
            turned, weight = replace(scheme, rotation=rotation), random_weight(rows=9, dtype=dtype)
            assert can_quantize(weight, turned)
            native = RoundToNearest().solve(weight, turned, "weight")
            without_native.setattr(rtn, "can_quantize", lambda weight, scheme: False)
            python = RoundToNearest().solve(weight, turned, "weight")
            assert all(torch.equal(native[name], python[name]) for name in python)
