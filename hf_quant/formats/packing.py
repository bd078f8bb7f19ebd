"""Codes of 2 to 16 bits packed densely into int32 words: the neutral layout on disk.

A row of ``n`` codes of ``b`` bits becomes a stream of ``n * b`` bits, lowest bits first, in ``ceil(n * b / 32)``
words; each code is the low ``b`` bits of its two's complement. Padding bits are zero. For 8 and 16 bits the packed
row *is* the row of int8 or int16 codes, reinterpreted, so packing and unpacking copy nothing.
"""

from __future__ import annotations

import sys

import torch

from hf_quant.errors import CheckpointError

WORD_BITS = 32

if sys.byteorder != "little":  # pragma: no cover - every platform torch ships wheels for is little-endian
    raise ImportError("hf_quant packs codes for little-endian machines only")


def words_per_row(length: int, bits: int) -> int:
    """int32 words that hold `length` codes of `bits` bits."""
    return -(-length * bits // WORD_BITS)


def code_dtype(bits: int) -> torch.dtype:
    """The integer dtype that holds unpacked codes."""
    return torch.int8 if bits <= 8 else torch.int16


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack integer codes ``[..., n]`` into int32 words ``[..., ceil(n * bits / 32)]``.

    `codes` must lie in ``[-2**(bits-1), 2**(bits-1) - 1]``; higher bits are cut off unchecked.
    """
    length = codes.shape[-1]
    padded = words_per_row(length, bits) * WORD_BITS // bits if WORD_BITS % bits == 0 else -(-length // 32) * 32
    codes = torch.nn.functional.pad(codes, (0, padded - length)) if padded != length else codes.contiguous()
    if bits in (8, 16):
        codes = codes.to(code_dtype(bits))
        # Only whole words can be reinterpreted, so codes that start within one are copied.
        flat = codes.clone().flatten() if codes.storage_offset() % (WORD_BITS // bits) else codes.flatten()
        return flat.view(torch.int32).view(*codes.shape[:-1], words_per_row(length, bits))
    if bits in (2, 4):
        per_byte = 8 // bits
        parts = (codes.to(torch.uint8) & (2**bits - 1)).unflatten(-1, (-1, per_byte))
        packed = parts[..., 0].clone()
        for index in range(1, per_byte):
            packed |= parts[..., index] << (index * bits)
        return packed.view(torch.int32)
    return _pack_across_words(codes, bits)[..., : words_per_row(length, bits)].contiguous()


def unpack(words: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    """Inverse of `pack`: codes ``[..., length]`` in int8 (up to 8 bits) or int16.

    For 8 and 16 bits the result is a view of `words`.

    Raises:
        CheckpointError: `words` is not int32 or has another number of words than `length` codes need.
    """
    if words.dtype != torch.int32 or words.shape[-1] != words_per_row(length, bits):
        raise CheckpointError(
            f"{length} codes of {bits} bits take {words_per_row(length, bits)} int32 words, "
            f"not {words.shape[-1]} of {words.dtype}; save the checkpoint again"
        )
    if bits in (8, 16):
        return words.view(code_dtype(bits))[..., :length]
    if bits in (2, 4):
        packed = words.view(torch.int8)
        # Shift a code to the top of its byte, then down again: the arithmetic shift extends its sign.
        shifts = range(8 - bits, -1, -bits)
        return torch.stack([(packed << shift) >> (8 - bits) for shift in shifts], -1).flatten(-2)[..., :length]
    return _unpack_across_words(words, bits)[..., :length]


def padding_is_zero(words: torch.Tensor, bits: int, length: int) -> bool:
    """Whether the bits after the last code of each row are zero, as `pack` leaves them."""
    used = length * bits - (words.shape[-1] - 1) * WORD_BITS
    if used == WORD_BITS or words.numel() == 0:
        return True
    mask = ((1 << WORD_BITS) - (1 << used)) & 0xFFFFFFFF
    signed = mask - (1 << WORD_BITS) if mask >= 1 << 31 else mask
    return not bool((words[..., -1] & signed).any())


def _pack_across_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    # 32 codes fill exactly `bits` words; a code may straddle two of them.
    blocks = (codes.to(torch.int32) & (2**bits - 1)).unflatten(-1, (-1, 32))
    words = torch.zeros(*blocks.shape[:-1], bits, dtype=torch.int32, device=codes.device)
    for index in range(32):
        word, shift = divmod(index * bits, WORD_BITS)
        words[..., word] |= blocks[..., index] << shift
        if shift + bits > WORD_BITS:
            words[..., word + 1] |= blocks[..., index] >> (WORD_BITS - shift)
    return words.flatten(-2)


def _unpack_across_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    blocks = torch.nn.functional.pad(words, (0, -words.shape[-1] % bits)).unflatten(-1, (-1, bits))
    codes = torch.empty(*blocks.shape[:-1], 32, dtype=torch.int8, device=words.device)
    for index in range(32):
        word, shift = divmod(index * bits, WORD_BITS)
        if shift + bits > WORD_BITS:
            low = (blocks[..., word] >> shift) & (2 ** (WORD_BITS - shift) - 1)
            raw = low | (blocks[..., word + 1] << (WORD_BITS - shift))
        else:
            raw = blocks[..., word] >> shift
        codes[..., index] = (raw << (WORD_BITS - bits)) >> (WORD_BITS - bits)
    return codes.flatten(-2)
