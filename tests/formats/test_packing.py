"""Packing: dense, lossless at every width and length, and laid out as documented."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CheckpointError
from hf_quant.formats.packing import code_dtype, pack, padding_is_zero, unpack, words_per_row
from tests.naming import naming

WIDTHS = [2, 3, 4, 5, 6, 7, 8, 16]


def random_codes(shape, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, generator=generator).to(code_dtype(bits))


def words_of(codes, bits):
    """The documented layout in Python integers: one stream of bits per row, lowest first, zeros to fill a word."""
    stream = sum((code % 2**bits) << (index * bits) for index, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    unsigned = [(stream >> (32 * index)) % 2**32 for index in range(count)]
    return [word - 2**32 if word >= 2**31 else word for word in unsigned]


@pytest.mark.parametrize("bits", WIDTHS)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(length=st.integers(1, 200), seed=st.integers(0, 1000))
def test_codes_survive_packing_at_every_width_and_length(bits, length, seed):
    codes = random_codes((3, length), bits, seed)
    words = pack(codes, bits)
    again = unpack(words, bits, length)
    assert again.dtype == codes.dtype and torch.equal(again, codes)
    assert words.dtype == torch.int32 and words.is_contiguous()


@pytest.mark.parametrize("bits", WIDTHS)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(length=st.integers(1, 70), seed=st.integers(0, 1000))
def test_the_layout_is_the_documented_stream_of_bits(bits, length, seed):
    codes = random_codes((length,), bits, seed)
    assert pack(codes, bits).tolist() == words_of(codes.tolist(), bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_rows_take_as_few_words_as_their_bits_need(bits):
    for length in range(1, 130):
        words = pack(random_codes((2, length), bits), bits)
        assert words.shape == (2, words_per_row(length, bits))
        assert 0 <= words.shape[-1] * 32 - length * bits < 32


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_may_come_in_any_integer_dtype_that_holds_them(bits):
    codes = random_codes((4, 37), bits)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        if bits == 16 and dtype == torch.int8:
            continue  # which does not hold them
        with naming(dtype):
            assert torch.equal(unpack(pack(codes.to(dtype), bits), bits, 37), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_leading_dimensions_are_kept(bits):
    codes = random_codes((2, 3, 4, 19), bits)
    assert torch.equal(unpack(pack(codes, bits), bits, 19), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("length", [32, 35])
def test_codes_may_lie_anywhere_and_anyhow_in_memory(bits, length):
    codes = random_codes((5, length), bits)
    strided = codes.t().contiguous().t()
    shifted = torch.cat([codes.new_zeros(3), codes.flatten()])[3:].view(5, length)
    assert not strided.is_contiguous() and shifted.storage_offset() == 3
    assert torch.equal(pack(strided, bits), pack(codes, bits))
    assert torch.equal(pack(shifted, bits), pack(codes, bits))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("length", [32, 35])
def test_one_row_of_a_wider_matrix_packs_like_a_copy_of_it(bits, length):
    row = random_codes((2, length + 1), bits)[1:, :length]
    assert torch.equal(pack(row, bits)[0], pack(row[0].clone(), bits))


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_does_not_touch_the_codes(bits):
    codes = random_codes((4, 33), bits)
    before = codes.clone()
    pack(codes, bits).fill_(-1)
    assert bits in (8, 16) or torch.equal(codes, before)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("length", [64, 61])
def test_unpacking_whole_bytes_is_a_view(bits, length):
    words = pack(random_codes((3, length), bits), bits)
    assert unpack(words, bits, length).data_ptr() == words.data_ptr()


@pytest.mark.parametrize("bits", [8, 16])
def test_packing_whole_bytes_without_padding_is_a_view(bits):
    codes = random_codes((3, 64), bits)
    assert pack(codes, bits).data_ptr() == codes.data_ptr()


@pytest.mark.parametrize("bits", WIDTHS)
def test_packed_rows_can_be_sliced_and_lie_at_any_word(bits):
    codes = random_codes((7, 45), bits)
    words = pack(codes, bits)
    shifted = torch.cat([words.new_zeros(1), words.flatten()])[1:].view(words.shape)
    assert torch.equal(unpack(words[2:5], bits, 45), codes[2:5])
    assert torch.equal(unpack(shifted, bits, 45), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_padding_is_zero_after_packing_and_one_set_bit_is_seen(bits):
    for length in range(1, 66):
        words = pack(torch.full((3, length), -1, dtype=code_dtype(bits)), bits)
        assert padding_is_zero(words, bits, length)
        for bit in range(length * bits - 32 * (words.shape[-1] - 1), 32):
            tampered = words.clone()
            tampered[1, -1] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
            assert not padding_is_zero(tampered, bits, length)


def test_nothing_has_no_padding():
    assert padding_is_zero(torch.empty(0, 4, dtype=torch.int32), 4, 30)
    assert padding_is_zero(torch.empty(3, 0, dtype=torch.int32), 4, 0)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_wrong_number_of_words_or_dtype_is_a_typed_error(bits):
    words = pack(random_codes((3, 40), bits), bits)
    for wrong in (
        words[:, :-1],
        torch.nn.functional.pad(words, (0, 1)),
        words.to(torch.int64),
        words.to(torch.float32),
    ):
        with pytest.raises(CheckpointError, match=rf"40 codes of {bits} bits take {words.shape[-1]} int32 words, not"):
            unpack(wrong, bits, 40)


@pytest.mark.parametrize("bits", WIDTHS)
def test_any_words_unpack_to_codes_in_range(bits):
    words = torch.randint(-(2**31), 2**31, (4, words_per_row(50, bits)), generator=torch.Generator().manual_seed(1))
    codes = unpack(words.to(torch.int32), bits, 50)
    assert int(codes.min()) >= -(2 ** (bits - 1)) and int(codes.max()) < 2 ** (bits - 1)
