"""Layouts of compressed-tensors: ``pack-quantized``, and one int8 per code (``int-quantized``, ``naive-quantized``).

Packed codes are the same dense stream of bits as ours, of ``code + 2**(bits - 1)`` rather than of two's complements:
the highest bit of each code is the other one. Zero points are packed down the rows there, and as one row here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import weight_facts
from hf_quant.formats.base import Matrix, Tensors
from hf_quant.formats.packing import pack, padding_is_zero, unpack, words_per_row
from hf_quant.formats.zero_points import pack_zero_points, unpack_zero_points

PACKED = "weight_packed"
"""What tells a packed weight: int32 words; one of int8 codes is called ``weight``."""


def to_packed(tensors: Tensors, matrix: Matrix) -> dict[str, torch.Tensor]:
    """A weight of 2 to 8 bits as ``pack-quantized`` holds it, bit for bit.

    Args:
        tensors: ``codes``, ``scale`` and, where asymmetric, ``zero_point``, as our formats store them.
        matrix: Scheme and shape of the weight.

    Returns:
        ``weight_packed`` int32 ``[rows, words]``, ``weight_shape`` int64 ``[2]``, ``weight_scale`` ``[rows, groups]``,
        or ``[1]`` per tensor, and ``weight_zero_point`` int32 ``[words of all rows, groups]``.
    """
    bits = matrix.scheme.bits
    found = {
        PACKED: _flipped(tensors["codes"], bits, matrix.width),
        "weight_shape": torch.tensor([matrix.rows, matrix.width]),
        "weight_scale": _their_grid(tensors["scale"], matrix),
    }
    if "zero_point" in tensors:
        columns = unpack_zero_points(tensors["zero_point"], bits, matrix.scale_shape).t().contiguous()
        packed = _flipped(pack(columns, bits), bits, matrix.scale_shape[0])
        found["weight_zero_point"] = packed.t().contiguous()
    return found


def from_packed(tensors: Mapping[str, torch.Tensor], matrix: Matrix) -> dict[str, torch.Tensor]:
    """Inverse of `to_packed`, for a weight of the scheme and shape that are expected.

    Raises:
        CheckpointError: A tensor is missing, of another shape or dtype, or holds what our format cannot, bit for bit.
    """
    bits, (rows, groups) = matrix.scheme.bits, matrix.scale_shape
    words = _of(tensors, PACKED, torch.int32, (matrix.rows, words_per_row(matrix.width, bits)))
    if "weight_shape" in tensors and tensors["weight_shape"].tolist() != [matrix.rows, matrix.width]:
        raise CheckpointError(
            f"weight_shape says {tensors['weight_shape'].tolist()}, and the module is {[matrix.rows, matrix.width]}: "
            "download the checkpoint again"
        )
    found = {"codes": _unflipped(words, bits, matrix.width), "scale": _our_scale(tensors, matrix)}
    if not matrix.scheme.symmetric:
        packed = _of(tensors, "weight_zero_point", torch.int32, (words_per_row(rows, bits), groups))
        columns = unpack(_unflipped(packed.t().contiguous(), bits, rows), bits, rows)
        found["zero_point"] = pack_zero_points(columns.t().contiguous(), bits)
    return found


def to_plain(tensors: Tensors, matrix: Matrix) -> dict[str, torch.Tensor]:
    """A weight of 2 to 8 bits as ``int-quantized`` and ``naive-quantized`` hold it: ``weight`` is int8 codes.

    Args:
        tensors: ``codes``, ``scale`` and, where asymmetric, ``zero_point``, as our formats store them.
        matrix: Scheme and shape of the weight.

    Returns:
        ``weight`` int8 ``[rows, width]``, ``weight_scale`` ``[rows, groups]``, or ``[1]`` per tensor, and
        ``weight_zero_point`` int8 of the shape of the scales.
    """
    bits = matrix.scheme.bits
    codes = unpack(tensors["codes"], bits, matrix.width).contiguous()
    found = {"weight": codes, "weight_scale": _their_grid(tensors["scale"], matrix)}
    if "zero_point" in tensors:
        zeros = unpack_zero_points(tensors["zero_point"], bits, matrix.scale_shape)
        found["weight_zero_point"] = _their_grid(zeros, matrix)
    return found


def from_plain(tensors: Mapping[str, torch.Tensor], matrix: Matrix) -> dict[str, torch.Tensor]:
    """Inverse of `to_plain`, for a weight of the scheme and shape that are expected.

    Raises:
        CheckpointError: A tensor is missing, of another shape or dtype, or holds what our format cannot, bit for bit.
    """
    bits = matrix.scheme.bits
    codes = _in_range(_of(tensors, "weight", torch.int8, (matrix.rows, matrix.width)), bits, "weight")
    found = {"codes": pack(codes, bits), "scale": _our_scale(tensors, matrix)}
    if not matrix.scheme.symmetric:
        zeros = _of(tensors, "weight_zero_point", torch.int8, _their_shape(matrix))
        zeros = _in_range(zeros, bits, "weight_zero_point").reshape(matrix.scale_shape)
        found["zero_point"] = pack_zero_points(zeros, bits)
    return found


def _highest_bits(bits: int, length: int) -> torch.Tensor:
    """int32 words of one row in which the highest bit of each code is set, and no bit of what pads the last word."""
    return pack(torch.full((1, length), -(2 ** (bits - 1)), dtype=torch.int8), bits)


def _flipped(words: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    return words ^ _highest_bits(bits, length).to(words.device)


def _unflipped(words: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    if not padding_is_zero(words, bits, length):
        raise CheckpointError("packed codes have bits set after the last one: download the checkpoint again")
    return _flipped(words, bits, length)


def _their_shape(matrix: Matrix) -> tuple[int, ...]:
    return (1,) if matrix.scheme.granularity == "tensor" else matrix.scale_shape


def _their_grid(values: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    return values.reshape(_their_shape(matrix)).contiguous()


def _our_scale(tensors: Mapping[str, torch.Tensor], matrix: Matrix) -> torch.Tensor:
    scale = _of(tensors, "weight_scale", None, _their_shape(matrix))
    dtype = weight_facts(matrix.scheme, matrix.rows, matrix.width)["scale"][1]
    kept = scale.to(dtype)
    if not torch.equal(kept.to(scale.dtype), scale):
        raise CheckpointError(
            f"scales of {scale.dtype} are not all of {dtype}: take a scheme with scale_dtype={_name(scale)}"
        )
    return kept.reshape(matrix.scale_shape)


def _name(tensor: torch.Tensor) -> str:
    return repr(str(tensor.dtype).removeprefix("torch."))


def _of(
    tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype | None, shape: tuple[int, ...]
) -> torch.Tensor:
    found = tensors.get(name)
    if found is None:
        raise CheckpointError(f"there is no {name} beside {', '.join(tensors) or 'nothing'}: the checkpoint lacks it")
    is_dtype = found.is_floating_point() if dtype is None else found.dtype == dtype
    if not is_dtype or tuple(found.shape) != shape:
        raise CheckpointError(
            f"{name} should be {dtype or 'floats'} {list(shape)}, and is {found.dtype} {list(found.shape)}: the config "
            "describes another weight"
        )
    return found


def _in_range(codes: torch.Tensor, bits: int, name: str) -> torch.Tensor:
    half = 2 ** (bits - 1)
    if bits < 8 and codes.numel() and not bool(((codes >= -half) & (codes < half)).all()):
        raise CheckpointError(f"{name} holds integers that {bits} bits do not: the config describes another weight")
    return codes
