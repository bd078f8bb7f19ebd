"""Zero points of weights as they lie on disk: codes like any others, packed as one row in the order of the scales.

A zero point of ``b`` bits takes ``b`` bits, as its codes do. All of a weight make one row, since the few that belong to
one row of it rarely fill whole words.
"""

from __future__ import annotations

import torch

from hf_quant.formats.packing import WORD_BITS, code_dtype, pack, unpack, words_per_row


def zero_point_words(shape: tuple[int, int], bits: int) -> int:
    """int32 words that hold the zero points of scales of this shape."""
    return words_per_row(shape[0] * shape[1], bits)


def pack_zero_points(zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers ``[rows, groups]`` in the range of `bits` to int32 words ``[ceil(rows * groups * bits / 32)]``."""
    return pack(zero_point.flatten(), bits)


def unpack_zero_points(
    words: torch.Tensor, bits: int, shape: tuple[int, int], rows: slice = slice(None)
) -> torch.Tensor:
    """Inverse of `pack_zero_points`: int8, or int16 above 8 bits, of `shape`, or those of consecutive rows of it.

    Raises:
        CheckpointError: `words` is not int32, or holds fewer than are asked for, or others than all of `shape` need.
    """
    start, stop, _ = (shape[1] * row for row in rows.indices(shape[0]))
    # Where a word begins with a code.
    begin = start // WORD_BITS * WORD_BITS
    end = len(words) if stop == shape[0] * shape[1] else words_per_row(stop, bits)
    return unpack(words[begin * bits // WORD_BITS : end], bits, stop - begin)[start - begin :].view(-1, shape[1])


def zero_points_of_rows(words: torch.Tensor, bits: int, rows: torch.Tensor, groups: int) -> torch.Tensor:
    """The zero points of some rows only, ``[*rows.shape, groups]``, each read from the words it lies in.

    Args:
        words: Zero points of the whole weight, packed into int32 words by `pack_zero_points`.
        bits: Bits of a zero point.
        rows: Indices of rows, int64 or int32, of any shape, in the range of the rows that were packed.
        groups: Zero points in a row.
    """
    positions = rows.to(torch.int64)[..., None] * groups + torch.arange(groups, device=rows.device)
    if bits in (8, 16):
        return words.view(code_dtype(bits))[positions]
    first = positions * bits // 8
    # A code of less than 8 bits lies in one byte or in two that follow each other.
    stream = words.view(torch.uint8)
    low, high = stream[first], stream[(first + 1).clamp_(max=stream.numel() - 1)]
    pair = low.to(torch.int32) | (high.to(torch.int32) << 8)
    # Shift a code to the top of the word, then down again: the arithmetic shift extends its sign.
    pair <<= (32 - bits - positions * bits % 8).to(torch.int32)
    return (pair >> (32 - bits)).to(torch.int8)
