"""Packed zero points: as few bits as codes have, and readable row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CheckpointError
from hf_quant.formats.packing import code_dtype, padding_is_zero
from hf_quant.formats.zero_points import (
    pack_zero_points,
    unpack_zero_points,
    zero_point_words,
    zero_points_of_rows,
)

BITS = [*range(2, 9), 16]


def random_zero_points(bits, rows, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    return torch.randint(-half, half, (rows, groups), generator=generator).to(code_dtype(bits))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.sampled_from(BITS), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_zero_points_come_back_in_as_many_bits_as_their_codes_have(bits, rows, groups, seed):
    zero_point = random_zero_points(bits, rows, groups, seed)
    words = pack_zero_points(zero_point, bits)
    assert words.dtype == torch.int32 and words.shape == (zero_point_words((rows, groups), bits),)
    assert 32 * words.numel() - rows * groups * bits < 32
    assert padding_is_zero(words, bits, rows * groups)
    found = unpack_zero_points(words, bits, (rows, groups))
    assert found.dtype == zero_point.dtype and torch.equal(found, zero_point)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sampled_from(BITS), st.integers(1, 40), st.integers(1, 12), st.data())
def test_those_of_consecutive_rows_are_unpacked_alone(bits, rows, groups, data):
    zero_point = random_zero_points(bits, rows, groups)
    words = pack_zero_points(zero_point, bits)
    start = data.draw(st.integers(0, rows - 1))
    part = slice(start, data.draw(st.integers(start + 1, rows + 3)))
    assert torch.equal(unpack_zero_points(words, bits, (rows, groups), part), zero_point[part])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.sampled_from(BITS), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_those_of_some_rows_are_read_without_the_others(bits, rows, groups, seed):
    zero_point = random_zero_points(bits, rows, groups, seed)
    words = pack_zero_points(zero_point, bits)
    # The last row, whose bits may end with the last byte, and any others, in any shape and some twice.
    index = torch.randint(rows, (2, 3), generator=torch.Generator().manual_seed(seed))
    index[0, 0] = rows - 1
    found = zero_points_of_rows(words, bits, index, groups)
    assert found.dtype == zero_point.dtype and torch.equal(found, zero_point[index])
    assert torch.equal(zero_points_of_rows(words, bits, index.to(torch.int32), groups), found)


@pytest.mark.parametrize("bits", BITS)
def test_extremes_of_every_width_are_kept(bits):
    half = 2 ** (bits - 1)
    zero_point = torch.tensor([[-half, half - 1, -1], [0, 1, -half]], dtype=code_dtype(bits))
    words = pack_zero_points(zero_point, bits)
    assert torch.equal(unpack_zero_points(words, bits, (2, 3)), zero_point)
    assert torch.equal(zero_points_of_rows(words, bits, torch.arange(2), 3), zero_point)


def test_another_number_of_words_is_refused():
    words = pack_zero_points(random_zero_points(4, 5, 9), 4)
    with pytest.raises(CheckpointError, match="45 codes of 4 bits take 6 int32 words, not 5"):
        unpack_zero_points(words[:-1], 4, (5, 9))
