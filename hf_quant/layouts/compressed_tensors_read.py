"""Weights of compressed-tensors in a scheme that the tensors themselves decide: packed, or one int8 per code."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats.packing import pack, padding_is_zero, unpack, words_per_row
from hf_quant.layouts.even import Imported, even_weight, expect, in_order, take, top_bits

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


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
