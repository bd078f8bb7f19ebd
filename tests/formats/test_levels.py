"""Tables of levels: the nearest one, the scale that reaches the farthest number, and what is refused."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError, ConfigError, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.base import Matrix
from hf_quant.formats.levels import LevelsFormat
from hf_quant.formats.nf4 import NF4

SCHEME = TensorScheme("nf4", 4, granularity="group", group_size=16)
ROWS = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=16)


def format_with(*levels, bits=4):
    kind = dataclass(frozen=True)(
        type("Toy", (LevelsFormat,), {"levels": levels, "__annotations__": {"levels": ClassVar}})
    )
    return kind(bits)


def on_grid(format, real):
    scale, zero_point = format.weight_grid(real.amin(), real.amax())
    assert zero_point is None
    codes = format.encode(real, scale)
    return codes, scale, format.decode(codes, scale)


def test_the_levels_of_nf4_are_the_quantiles_of_the_paper():
    def half(count, end=0.9677083):
        steps = [end + (0.5 - end) * index / count for index in range(count)]
        return [NormalDist().inv_cdf(share) for share in steps]

    levels = sorted([*half(8), 0.0, *(-value for value in half(7))])
    assert [*NF4.levels] == pytest.approx([value / max(levels) for value in levels], abs=1e-6)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(ROWS, st.sampled_from([torch.float32, torch.bfloat16]))
def test_every_number_goes_to_its_nearest_level(numbers, dtype):
    format, real = NF4(4, scale_dtype=dtype), torch.tensor(numbers)
    _, scale, found = on_grid(format, real)
    table = torch.tensor(NF4.levels, dtype=torch.float64) * scale.double()
    best = (real.double()[:, None] - table).abs().amin(-1)
    assert bool(((found.double() - real.double()).abs() <= best * (1 + 1e-6) + 1e-6 * scale.double()).all())


def test_the_farthest_number_is_exact_and_zero_stays_zero():
    real = torch.tensor([0.0, -3.0, 1.25, 0.0])
    codes, scale, found = on_grid(NF4(4), real)
    assert float(scale) == 3.0 and codes[1] == -8 and float(found[1]) == -3.0
    assert found[[0, 3]].tolist() == [0.0, 0.0] and codes[[0, 3]].tolist() == [-1, -1]


@pytest.mark.parametrize("real", [torch.zeros(4), torch.full((4,), 3.4e38), torch.full((4,), -1e-42)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_zeros_and_of_huge_and_tiny_numbers_stay_finite(real, dtype):
    _, scale, found = on_grid(NF4(4, scale_dtype=dtype), real)
    assert bool(found.isfinite().all()) and float(scale) > 0 and float(scale.to(dtype).float()) == float(scale)
    assert torch.allclose(found, real, rtol=1e-2, atol=1e-37)


def test_a_tie_goes_to_the_lower_level_and_nan_stays_nan():
    format = format_with(-1.0, 0.0, 1.0, bits=2)
    assert format.nearest(torch.tensor([-0.5, 0.5, 0.50001, torch.nan]), None).tolist()[:3] == [-1.0, 0.0, 1.0]
    assert format.nearest(torch.tensor([torch.nan]), None).isnan().all()


def test_levels_of_one_side_reach_the_farther_number_of_it():
    _, scale, found = on_grid(format_with(-2.0, -1.0, 0.0, 1.0, bits=2), torch.tensor([-3.0, 2.0]))
    assert float(scale) == 2.0 and found.tolist() == [-4.0, 2.0]


@pytest.mark.parametrize(
    "levels",
    [
        (-1.0, 0.0, float("nan")),
        (-1.0, 0.0, float("inf")),
        (0.0, -1.0, 1.0),
        (-1.0, 0.0, 0.0, 1.0),
        (-1.0, 1.0),
        (0.0,),
        tuple(float(level) for level in range(17)),
    ],
)
def test_a_table_that_is_none_is_refused(levels):
    with pytest.raises(ConfigError, match="finite numbers that ascend, zero among them"):
        format_with(*levels)


def test_there_are_no_zero_points():
    with pytest.raises(ConfigError, match="no zero points"):
        NF4(4, symmetric=False)


def stored(rows=3, width=32, **changes):
    generator = torch.Generator().manual_seed(0)
    format, matrix = format_of(SCHEME), Matrix(SCHEME, rows, width)
    real = torch.randn(rows, width, generator=generator)
    groups = real.unflatten(-1, (-1, 16))
    grid = format.weight_grid(groups.amin(-1), groups.amax(-1))
    codes = format.encode(groups, grid[0][..., None])
    return format, matrix, real, format.stored(format.pack(codes.flatten(-2)), grid, "weight") | changes


def test_stored_tensors_are_as_declared_and_decode_row_by_row():
    format, matrix, real, tensors = stored()
    facts = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert facts == format.tensors(matrix) == {"codes": ((3, 4), torch.int32), "scale": ((3, 2), torch.bfloat16)}
    whole = format.decode_rows(tensors, matrix, slice(None))
    assert float((whole - real).abs().max()) < 0.16 * float(real.abs().max())
    assert torch.equal(format.decode_rows(tensors, matrix, slice(1, 3)), whole[1:])
    assert torch.equal(format.look_up(tensors, matrix, torch.tensor([[2, 0]])), whole[[2, 0]][None])
    format.check(tensors, matrix, "weight")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, -1.0])
def test_scales_that_no_quantizer_writes_are_refused(value):
    format, matrix, _, tensors = stored()
    tensors["scale"][1, 1] = value
    with pytest.raises(CheckpointError, match="weight_scale holds values that are not finite and positive"):
        format.check(tensors, matrix, "weight")


def test_a_code_beyond_the_table_is_refused():
    format = format_with(-1.0, -0.5, 0.0, 0.5, 1.0, bits=3)
    scheme = TensorScheme(bits=3)
    tensors = format.stored(format.pack(torch.tensor([[-4, 0, -2]])), (torch.ones(1, 1), None), "weight")
    format.check(tensors, Matrix(scheme, 1, 3), "weight")
    tensors["codes"] = format.pack(torch.tensor([[-4, 1, -2]]))
    with pytest.raises(CheckpointError, match="weight holds a code above 0, but the table"):
        format.check(tensors, Matrix(scheme, 1, 3), "weight")


@pytest.mark.parametrize("name", ["int", "nf4"])
def test_scales_that_float16_cannot_hold_are_refused_and_tiny_ones_kept_above_zero(name):
    format = format_of(TensorScheme(name, 4, scale_dtype="float16"))
    codes = format.pack(torch.zeros(1, 8, dtype=torch.int8))
    for size in (1e6, 1e30):
        grid = format.weight_grid(torch.tensor([[-size]]), torch.tensor([[size]]))
        with pytest.raises(
            WeightError, match='weight needs scales that float16 cannot hold: take scale_dtype "float32"'
        ):
            format.stored(codes, grid, "weight")
    for size in (0.0, 1e-12):
        scale, _ = format.weight_grid(torch.tensor([[-size]]), torch.tensor([[size]]))
        assert float(scale.abs()) == 2.0**-24 and float(scale.half()) == float(scale)
