"""Blocks of 32 numbers as llama.cpp's GGUF files hold them, written of our codes.

A block is a float16 scale ``d`` and unsigned codes ``u``: ``(u - offset) * d`` in Q4_0, Q5_0 and Q8_0, and, with a
float16 minimum, ``u * d + m`` in Q4_1 and Q5_1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ExportError
from hf_quant.formats.base import Matrix, Tensors
from hf_quant.formats.packing import unpack
from hf_quant.formats.zero_points import unpack_zero_points

BLOCK = 32
"""Numbers in a block."""
_ROUNDING = 2e-3
"""Most that float16 may move a number, relative to the largest one of the weight."""


@dataclass(frozen=True)
class Blocks:
    """A weight as rows of blocks.

    Args:
        kind: Name of their type, such as ``"Q4_0"``.
        rows: The blocks, uint8 ``[rows, bytes]``.
        values: What they decode to, float32 ``[rows, width]``.
    """

    kind: str
    rows: torch.Tensor
    values: torch.Tensor


def kind_of(scheme: TensorScheme) -> str:
    """The type whose blocks hold the codes of a scheme on an even grid.

    Raises:
        ExportError: None does: 16 bits, or more than 5 with zero points.
    """
    bits, symmetric = scheme.bits, scheme.symmetric
    if not scheme.facts.is_even or bits > 8 or (bits > 5 and not symmetric):
        raise ExportError(f"no block of GGUF holds {scheme}: take 4 bits, or 8 bits without zero points")
    if bits > 5:
        return "Q8_0"
    return f"Q{4 if bits <= 4 else 5}_{0 if symmetric else 1}"


def to_blocks(tensors: Tensors, matrix: Matrix, order: torch.Tensor | None = None) -> Blocks:
    """A weight on an even grid as blocks: the same codes, and scales as float16 for each block.

    Args:
        tensors: ``codes``, ``scale`` and, where asymmetric, ``zero_point``, as our formats store them.
        matrix: Scheme and shape of the weight.
        order: Rows in the order in which they are to be, int64 ``[rows]``; None: as they are.

    Raises:
        ExportError: No block holds the scheme, rows or groups are no whole blocks, or float16 cannot hold the scales.
    """
    kind = kind_of(matrix.scheme)
    if matrix.width % BLOCK or matrix.group_size % BLOCK:
        raise ExportError(
            f"rows of {matrix.width} numbers in groups of {matrix.group_size} are no whole blocks of {BLOCK}: take "
            f"groups of a multiple of {BLOCK}"
        )
    codes = unpack(tensors["codes"], matrix.scheme.bits, matrix.width).unflatten(-1, (-1, BLOCK))
    scale = _of_blocks(tensors["scale"], matrix)
    zeros = None
    if "zero_point" in tensors:
        packed = unpack_zero_points(tensors["zero_point"], matrix.scheme.bits, matrix.scale_shape)
        zeros = _of_blocks(packed, matrix).float()
    if order is not None:
        codes, scale, zeros = codes[order], scale[order], None if zeros is None else zeros[order]
    half = scale.to(torch.float16)
    # Of the scale as it is rounded, so that what is near zero stays there.
    least = None if zeros is None else (-half.float() * (_OFFSETS[kind] + zeros)).to(torch.float16)
    values = decoded(codes, half, least, kind)
    _check(values, codes.float().sub_(0 if zeros is None else zeros).mul_(scale.float()), matrix.scheme)
    parts = [half.view(torch.uint8)] + ([] if least is None else [least.view(torch.uint8)])
    return Blocks(kind, torch.cat([*parts, *_stored(codes, kind)], -1).flatten(1), values.flatten(1))


def decoded(codes: torch.Tensor, half: torch.Tensor, least: torch.Tensor | None, kind: str) -> torch.Tensor:
    """float32 numbers of signed codes ``[..., 32]``, by the arithmetic of the type.

    Args:
        codes: int8, as our formats have them.
        half: float16 scales ``[..., 1]``.
        least: float16 minima of the same shape; None where the type has none.
        kind: Name of the type.
    """
    if least is None:
        return codes.float() * half.float()
    return (codes.float() + _OFFSETS[kind]) * half.float() + least.float()


_OFFSETS = {"Q4_0": 8, "Q4_1": 8, "Q5_0": 16, "Q5_1": 16, "Q8_0": 0}


def _of_blocks(values: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """Of groups, rows or the whole weight, ``[rows, blocks, 1]``."""
    each = values.expand(matrix.rows, matrix.groups)
    return each.repeat_interleave(matrix.width // matrix.groups // BLOCK, dim=1).unsqueeze(-1)


def _stored(codes: torch.Tensor, kind: str) -> list[torch.Tensor]:
    if kind == "Q8_0":
        return [codes.contiguous().view(torch.uint8)]
    unsigned = (codes + _OFFSETS[kind]).to(torch.uint8)
    halves = unsigned & 15
    nibbles = halves[..., :16] | halves[..., 16:] << 4
    if kind.startswith("Q4"):
        return [nibbles]
    fifth = (unsigned >> 4).unflatten(-1, (4, 8)) << torch.arange(8, dtype=torch.uint8, device=codes.device)
    return [fifth.sum(-1, dtype=torch.uint8), nibbles]


def _check(found: torch.Tensor, expected: torch.Tensor, scheme: TensorScheme) -> None:
    error, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not error <= _ROUNDING * largest:
        raise ExportError(
            f"scales of {scheme} are too large or too small for float16, which blocks of GGUF hold them in: they move "
            f"a number by {error:.1e}, where the largest is {largest:.1e}; keep the module float"
        )
