"""Codes as ONNX Runtime takes them: unsigned, in bytes, in blocks of a row.

A code of ``b`` bits becomes ``code + 2**(b-1)``, and so does a zero point. Those of 2 and 4 bits share a byte, lowest
bits first; 3 bits lie in 4, and 5 to 7 in 8: the same codes in a wider container.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.formats.base import Matrix, Tensors
from hf_quant.formats.packing import pack, unpack
from hf_quant.formats.zero_points import unpack_zero_points

BLOCKS = (256, 128, 64, 32, 16)
"""Lengths of blocks that ``MatMulNBits`` takes, longest first."""


def container(bits: int) -> int:
    """Bits that a code of `bits` bits takes in a file: 2, 4 or 8."""
    return next(size for size in (2, 4, 8) if bits <= size)


def block_size(group_size: int) -> int | None:
    """The longest block that divides a group; None where none does."""
    return next((size for size in BLOCKS if group_size % size == 0), None)


def block_of_row(width: int) -> int:
    """The length of blocks where a scale is that of a whole row, the last of which need not be full."""
    return block_size(width) or BLOCKS[-1]


@dataclass(frozen=True)
class Integers:
    """A matrix as integers on an even grid, ``real = (codes - zero_point) * scale``.

    Args:
        codes: int8 ``[rows, width]``.
        scale: float32 ``[rows, groups]``, also where the format has one for the whole matrix.
        zero_point: int8 ``[rows, groups]``; None where all are 0.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None


def integers(tensors: Tensors, matrix: Matrix) -> Integers:
    """The stored tensors of a matrix of up to 8 bits, unpacked; numbers as they are stored.

    Args:
        tensors: By the names of the format: ``codes``, ``scale`` and, where asymmetric, ``zero_point``.
        matrix: Its scheme and sizes.
    """
    bits, shape = matrix.scheme.bits, (matrix.rows, matrix.groups)
    zero_point = tensors.get("zero_point")
    if zero_point is not None:
        zero_point = unpack_zero_points(zero_point, bits, matrix.scale_shape).expand(shape)
    codes = unpack(tensors["codes"], bits, matrix.width)
    return Integers(codes, tensors["scale"].to(torch.float32).expand(shape), zero_point)


def to_bytes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 codes ``[..., n]`` to uint8 ``[..., ceil(n * bits / 8)]``, in a container of 2, 4 or 8 bits."""
    length = -(-codes.shape[-1] * bits // 8)
    shifted = codes.to(torch.int16) + 2 ** (bits - 1)
    if bits == 8:
        return shifted.to(torch.uint8)
    # Its low bits are those of the two's complement that `pack` takes.
    return pack(shifted.to(torch.int8), bits).view(torch.uint8)[..., :length].contiguous()


def to_blocks(codes: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """int8 codes ``[rows, width]`` to uint8 ``[rows, blocks, size * bits / 8]``, the last block filled with zeros."""
    filled = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % size))
    return to_bytes(filled.unflatten(-1, (-1, size)), bits)


def per_block(values: torch.Tensor, blocks: int) -> torch.Tensor:
    """``[rows, groups]`` to ``[rows, blocks]``: the value of a group for each of its blocks."""
    return values.repeat_interleave(blocks // values.shape[-1], -1).contiguous()
