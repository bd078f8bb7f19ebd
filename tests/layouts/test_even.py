"""Grids that ours does not have stand for the same numbers once they are imported, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats import format_of
from hf_quant.formats.packing import pack
from hf_quant.layouts.even import even_weight, in_order, top_bits

SCALES = (torch.float16, torch.bfloat16, torch.float32)


def decoded(found):
    format = format_of(found.scheme)
    format.check(found.tensors, found.matrix, "weight")
    return format.decode_rows(found.tensors, found.matrix, slice(None))


def meant(codes, zeros, scale):
    groups = scale.shape[1]
    real = codes.unflatten(-1, (groups, -1)).float()
    return ((real - (0 if zeros is None else zeros[..., None].float())) * scale[..., None].float()).flatten(-2)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 8), st.sampled_from(SCALES), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 9999))
def test_every_grid_is_kept_bit_for_bit(bits, dtype, groups, has_zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (5, 32), generator=generator).to(torch.int8)
    zeros = torch.randint(-half, half, (5, groups), generator=generator).to(torch.int8) if has_zeros else None
    scale = torch.randn(5, groups, generator=generator).to(dtype)
    scale[torch.rand(5, groups, generator=generator) < 0.2] = 0
    found = even_weight(pack(codes, bits), zeros, scale, bits, 32)
    assert torch.equal(decoded(found), meant(codes, zeros, scale))


@pytest.mark.parametrize(
    ("dtype", "said"), [(torch.float16, "float16"), (torch.bfloat16, None), (torch.float32, "float32")]
)
def test_scales_in_groups_keep_their_dtype(dtype, said):
    found = even_weight(pack(torch.ones(2, 32, dtype=torch.int8), 4), None, torch.ones(2, 2, dtype=dtype), 4, 32)
    assert found.scheme.scale_dtype == said and found.tensors["scale"].dtype is dtype and found.scheme.symmetric


@pytest.mark.parametrize("lowest", [-127, -128])
def test_eight_bits_are_symmetric_unless_they_hold_the_lowest_code(lowest):
    codes = torch.tensor([[lowest, 0, 5, 127]], dtype=torch.int8)
    found = even_weight(pack(codes, 8), None, torch.ones(1, 1), 8, 4)
    assert found.scheme.symmetric is (lowest == -127)
    assert torch.equal(decoded(found), codes.float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scales_that_are_no_numbers_are_refused(value):
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        even_weight(pack(torch.ones(1, 32, dtype=torch.int8), 4), None, torch.tensor([[value]]), 4, 32)


def test_scales_of_other_dtypes_are_refused():
    with pytest.raises(LayoutError, match="float64"):
        even_weight(pack(torch.ones(1, 32, dtype=torch.int8), 4), None, torch.ones(1, 1, dtype=torch.float64), 4, 32)


def test_the_highest_bit_of_each_code_tells_unsigned_from_signed():
    codes = torch.arange(32) % 8
    words = pack(codes.to(torch.int8), 3)  # as unsigned: only their low bits are packed
    assert torch.equal(top_bits(words, 3, 32), pack((codes - 4).to(torch.int8), 3))


def test_groups_of_neighbours_in_any_order_are_kept():
    scale, zeros = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 2]])
    order = torch.tensor([2, 0, 1, 0]).repeat_interleave(8).to(torch.int32)
    found, moved = in_order(scale, zeros, order, 32)
    assert found.tolist() == [[3, 1, 2, 1]] and moved.tolist() == [[2, 0, 1, 0]]


def test_groups_whose_inputs_lie_apart_are_refused():
    order = torch.arange(32).to(torch.int32) % 2
    with pytest.raises(LayoutError, match=r"act-order.*desc_act=False"):
        in_order(torch.ones(1, 2), None, order, 32)


@pytest.mark.parametrize("order", [torch.full((32,), 2), torch.full((32,), -1), torch.zeros(16), torch.zeros(32)])
def test_orders_that_name_no_groups_are_refused(order):
    wrong = order if order.dtype == torch.float32 else order.to(torch.int32)
    with pytest.raises(CheckpointError, match="g_idx"):
        in_order(torch.ones(1, 2), None, wrong, 32)
