"""Layouts of compressed-tensors: ``pack-quantized``, and one int8 per code (``int-quantized``, ``naive-quantized``).

Packed codes are the same dense stream of bits as ours, of ``code + 2**(bits - 1)`` rather than of two's complements:
the highest bit of each code is the other one. Zero points are packed down the rows there, and as one row here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats.base import Matrix, Tensors
from hf_quant.formats.packing import pack, padding_is_zero, unpack, words_per_row
from hf_quant.formats.zero_points import unpack_zero_points
from hf_quant.layouts.even import Imported, even_weight, expect, in_order, take, top_bits

PACKED = "weight_packed"
"""What tells a packed weight: int32 words; one of int8 codes is called ``weight``."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


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
        PACKED: top_bits(tensors["codes"], bits, matrix.width),
        "weight_shape": torch.tensor([matrix.rows, matrix.width]),
        "weight_scale": _their_grid(tensors["scale"], matrix),
    }
    if "zero_point" in tensors:
        columns = unpack_zero_points(tensors["zero_point"], bits, matrix.scale_shape).t().contiguous()
        packed = top_bits(pack(columns, bits), bits, matrix.scale_shape[0])
        found["weight_zero_point"] = packed.t().contiguous()
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


def read(tensors: Mapping[str, torch.Tensor], bits: int, symmetric: bool) -> Imported:
    """A weight of ``(codes - zero points) * scales``.

    Args:
        tensors: ``weight_packed`` int32 with ``weight_shape``, or ``weight`` int8 ``[rows, width]``; ``weight_scale``
            ``[rows, groups]``, or one number; perhaps ``weight_zero_point`` and ``weight_g_idx``.
        bits: 2 to 8.
        symmetric: Whether zero points are 0; those that a file holds have to be, then.

    Raises:
        CheckpointError: A tensor is missing, or does not belong to the others.
        LayoutError: Our formats cannot hold the weight bit for bit.
    """
    if "weight_packed" in tensors:
        words = take(tensors, "weight_packed", torch.int32)
        shape = take(tensors, "weight_shape", torch.int64, torch.int32, ndim=1).tolist()
        if len(shape) != 2 or shape[0] != len(words) or words_per_row(shape[1], bits) != words.shape[1]:
            raise CheckpointError(f"weight_packed is {list(words.shape)}, which is no {bits}-bit weight of {shape}")
        rows, width = shape
        words = _unsigned(words, bits, width)
    else:
        codes = take(tensors, "weight", torch.int8)
        rows, width = codes.shape
        words = pack(_checked(codes, bits, "weight"), bits)
    scale = tensors.get("weight_scale")
    per_tensor = scale is not None and scale.numel() == 1 and rows > 1
    scale = take(
        {"weight_scale": scale.reshape(1, 1) if per_tensor else scale} if scale is not None else {},
        "weight_scale",
        *_FLOATS,
    )
    expect("weight_scale", scale, (1 if per_tensor else rows, scale.shape[1]))
    zeros = _zero_points(tensors, bits, tuple(scale.shape), symmetric)
    if not per_tensor:
        scale, zeros = in_order(scale, zeros, tensors.get("weight_g_idx"), width)
    return even_weight(words, zeros, scale, bits, width, per_tensor)


def _their_shape(matrix: Matrix) -> tuple[int, ...]:
    return (1,) if matrix.scheme.granularity == "tensor" else matrix.scale_shape


def _their_grid(values: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    return values.reshape(_their_shape(matrix)).contiguous()


def _zero_points(
    tensors: Mapping[str, torch.Tensor], bits: int, shape: tuple[int, ...], symmetric: bool
) -> torch.Tensor | None:
    found = tensors.get("weight_zero_point")
    if found is None:
        if symmetric:
            return None
        raise CheckpointError("there is no weight_zero_point, though the config says that the weight is asymmetric")
    if found.dtype == torch.int32 and "weight_packed" in tensors:
        expect("weight_zero_point", found, (words_per_row(shape[0], bits), shape[1]))
        zeros = unpack(_unsigned(found.t().contiguous(), bits, shape[0]), bits, shape[0]).t().contiguous()
    else:
        zeros = take(
            {"weight_zero_point": found.reshape(shape) if found.numel() == shape[0] * shape[1] else found},
            "weight_zero_point",
            torch.int8,
        )
        expect("weight_zero_point", zeros, shape)
        zeros = _checked(zeros, bits, "weight_zero_point")
    if symmetric and bool(zeros.any()):
        raise CheckpointError("weight_zero_point is not 0, though the config says that the weight is symmetric")
    return zeros


def _unsigned(words: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    if not padding_is_zero(words, bits, length):
        raise CheckpointError("packed codes have bits set after the last one: download the checkpoint again")
    return top_bits(words, bits, length)


def _checked(codes: torch.Tensor, bits: int, name: str) -> torch.Tensor:
    half = 2 ** (bits - 1)
    if bits < 8 and not bool(((codes >= -half) & (codes < half)).all()):
        raise CheckpointError(f"{name} holds integers that {bits} bits do not: the config describes another weight")
    return codes
