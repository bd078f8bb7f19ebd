"""Blocks of llama.cpp's GGUF files: those that are codes times a scale, or happen to be.

Q4_0, Q5_0 and Q8_0 are ours in groups of 32; IQ4_NL, whose levels are integers, is so with 8 bits; Q3_K and Q6_K are
in groups of 16, whose scales are products that float32 holds. Q4_1 and Q5_1 add a minimum, which is ours where it is a
whole multiple of the scale.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats.packing import pack
from hf_quant.layouts.even import Imported, even_weight

_Codes = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""int8 codes ``[rows, blocks, numbers]``, scale and zero points ``[rows, blocks, groups of a block]``."""
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def read(blocks: torch.Tensor, kind: str, width: int) -> Imported:
    """A weight of blocks, uint8 ``[rows, bytes]``, as float32 arithmetic on codes and scales decodes it.

    Args:
        blocks: Rows of blocks as they are in the file.
        kind: Name of the type, such as ``"Q4_0"``.
        width: Numbers in a row.

    Raises:
        CheckpointError: Rows hold no whole number of blocks, or another one than `width` takes.
        LayoutError: The type, or these very numbers, are none that our formats hold.
    """
    if kind not in BLOCKS:
        raise LayoutError(
            f"{kind} adds a minimum to codes times a scale, or has levels that no format here has; these are read bit "
            f"for bit: {', '.join(BLOCKS)}"
        )
    bits, numbers, size, codes_of = BLOCKS[kind]
    if blocks.dtype != torch.uint8 or blocks.ndim != 2 or width % numbers or blocks.shape[1] != width // numbers * size:
        raise CheckpointError(f"{list(blocks.shape)} bytes are no blocks of {kind} for rows of {width} numbers")
    codes, scale, zeros = codes_of(blocks.unflatten(-1, (-1, size)))
    zeros = None if zeros is None else zeros.flatten(1)
    return even_weight(pack(codes.flatten(1).to(torch.int8), bits), zeros, scale.flatten(1).contiguous(), bits, width)


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    return blocks[..., start : start + 2].contiguous().view(torch.float16)


def _nibbles(blocks: torch.Tensor) -> torch.Tensor:
    """Low halves of all bytes, then their high halves."""
    return torch.cat([blocks & 15, blocks >> 4], -1)


def _bits_at(fields: torch.Tensor, bits: int) -> torch.Tensor:
    """Fields of `bits` bits of each byte, lowest first: ``[..., n] -> [..., 8 / bits, n]``."""
    return torch.stack([(fields >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -2)


def _fifth_bits(fields: torch.Tensor) -> torch.Tensor:
    return _bits_at(fields, 1).transpose(-1, -2).flatten(-2) << 4


def _q4_0(blocks: torch.Tensor) -> _Codes:
    return _nibbles(blocks[..., 2:]).to(torch.int8) - 8, _half(blocks, 0), None


def _q5_0(blocks: torch.Tensor) -> _Codes:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return codes.to(torch.int8) - 16, _half(blocks, 0), None


def _q8_0(blocks: torch.Tensor) -> _Codes:
    return blocks[..., 2:].contiguous().view(torch.int8), _half(blocks, 0), None


def _iq4_nl(blocks: torch.Tensor) -> _Codes:
    return torch.tensor(_IQ4_NL, dtype=torch.int8)[_nibbles(blocks[..., 2:]).long()], _half(blocks, 0), None


def _q4_1(blocks: torch.Tensor) -> _Codes:
    scale, zeros = _with_minimum(blocks, 4)
    return _nibbles(blocks[..., 4:]).to(torch.int8) - 8, scale, zeros


def _q5_1(blocks: torch.Tensor) -> _Codes:
    scale, zeros = _with_minimum(blocks, 5)
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return codes.to(torch.int8) - 16, scale, zeros


def _with_minimum(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale, least = _half(blocks, 0), _half(blocks, 2)
    steps = -least.float() / scale.float()
    zeros = torch.where(scale == 0, 0.0, steps).round().clamp(0, 2**bits - 1)
    # Products of a half and a few bits are exact in float32, and so are their sums.
    if not torch.equal(zeros * scale.float(), -least.float()):
        raise LayoutError(
            "its blocks have minima that are no whole multiples of their scales, which zero points cannot say: take a "
            f"file of Q{bits}_0 or Q8_0"
        )
    return scale, zeros.to(torch.int16) - 2 ** (bits - 1)


def _q6_k(blocks: torch.Tensor) -> _Codes:
    low = _bits_at(blocks[..., :128].unflatten(-1, (2, 64)), 4).flatten(-3)
    high = _bits_at(blocks[..., 128:192].unflatten(-1, (2, 32)), 2).flatten(-3)
    scales = blocks[..., 192:208].contiguous().view(torch.int8)
    return (low | high << 4).to(torch.int8) - 32, _half(blocks, 208).float() * scales.float(), None


def _q3_k(blocks: torch.Tensor) -> _Codes:
    high = _bits_at(blocks[..., :32], 1).flatten(-2)
    low = _bits_at(blocks[..., 32:96].unflatten(-1, (2, 32)), 2).flatten(-3)
    packed = blocks[..., 96:108]
    scales = _bits_at(packed[..., :8], 4).flatten(-2) | _bits_at(packed[..., 8:], 2).flatten(-2) << 4
    # The offset is taken away where the bit is not set.
    codes = low.to(torch.int8) - 4 + (high.to(torch.int8) << 2)
    return codes, _half(blocks, 108).float() * (scales.to(torch.int8) - 32).float(), None


BLOCKS: dict[str, tuple[int, int, int, Callable[[torch.Tensor], _Codes]]] = {
    "Q4_0": (4, 32, 18, _q4_0),
    "Q4_1": (4, 32, 20, _q4_1),
    "Q5_0": (5, 32, 22, _q5_0),
    "Q5_1": (5, 32, 24, _q5_1),
    "Q8_0": (8, 32, 34, _q8_0),
    "IQ4_NL": (8, 32, 18, _iq4_nl),
    "Q3_K": (3, 256, 110, _q3_k),
    "Q6_K": (6, 256, 210, _q6_k),
}
"""Type to bits of our codes, numbers and bytes of a block, and what reads blocks."""
