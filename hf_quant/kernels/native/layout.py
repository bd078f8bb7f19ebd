"""Neutral codes to the layout of the native kernels, and back, bit for bit (``csrc/layout.h``)."""

from __future__ import annotations

import ctypes

import torch

from hf_quant.errors import KernelError
from hf_quant.formats.packing import words_per_row
from hf_quant.formats.zero_points import zero_point_words
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native import structs
from hf_quant.kernels.native.library import load
from hf_quant.kernels.openmp import end_threads, threads_for
from hf_quant.kernels.weights import weight_zero_points

GROUP_MULTIPLE = 32
"""Inputs in one chunk of the layout: groups are made of whole chunks."""


def flags_of(spec: LinearSpec) -> int:
    """Flags of what a packed weight holds besides codes: zero points, sums of codes, wide scales of groups."""
    input = spec.scheme.input
    has_sums = input is not None and not input.symmetric
    is_wide = group_of(spec) and spec.scale_dtype is not torch.bfloat16
    flags = (0 if spec.scheme.weight.symmetric else structs.HAS_ZEROS) | (structs.HAS_SUMS if has_sums else 0)
    return flags | (structs.WIDE_SCALES if is_wide else 0)


def group_of(spec: LinearSpec) -> int:
    """Number of inputs that share a scale, 0 where all do."""
    return spec.scheme.weight.group_size or 0


def pack(operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
    """Prepack a weight for the native kernels: uint8 ``[bytes]``.

    Raises:
        KernelError: A tensor has another shape or dtype than `spec` says.
    """
    library = _library()
    zeros = _checked_zeros(operands, spec)
    scale = operands.weight["scale"]
    _check(scale, spec.scale_dtype, spec.scale_shape, "weight_scale")
    if not (group_of(spec) and scale.dtype is torch.bfloat16):
        scale = scale.to(torch.float32)  # exact, whatever it is stored in
    neutral = _neutral(operands, scale, zeros, spec)
    blocks = torch.empty(library.hf_quant_packed_bytes(ctypes.byref(neutral)), dtype=torch.uint8, device="cpu")
    library.hf_quant_pack(ctypes.byref(neutral), blocks.data_ptr(), threads_for(spec.out_features * spec.in_features))
    return blocks


def unpack(blocks: torch.Tensor, spec: LinearSpec) -> torch.Tensor:
    """The neutral int32 words ``[out, words]`` that `pack` was given.

    Raises:
        KernelError: `blocks` is not a packed weight of `spec`.
    """
    library = _library()
    bits = spec.scheme.weight.bits
    row = words_per_row(spec.in_features, bits)
    neutral = structs.Neutral(
        channels=spec.out_features,
        words_per_row=row,
        width=spec.in_features,
        bits=bits,
        group=group_of(spec),
        flags=flags_of(spec),
    )
    if (
        blocks.dtype != torch.uint8
        or blocks.device.type != "cpu"
        or not blocks.is_contiguous()
        or blocks.numel() != library.hf_quant_packed_bytes(ctypes.byref(neutral))
    ):
        raise KernelError(f"not a packed weight of {spec.out_features} x {spec.in_features} in {spec.scheme}")
    words = torch.empty(spec.out_features, row, dtype=torch.int32, device="cpu")
    threads = threads_for(spec.out_features * spec.in_features)
    library.hf_quant_unpack(ctypes.byref(neutral), blocks.data_ptr(), words.data_ptr(), threads)
    if threads > 1:
        end_threads()  # saving and copying a float model starts none
    return words


def _checked_zeros(operands: LinearOperands, spec: LinearSpec) -> torch.Tensor | None:
    words, scheme = operands.weight.get("zero_point"), spec.scheme.weight
    if (words is None) != scheme.symmetric:
        raise KernelError("a zero point belongs to asymmetric weights, and to them only")
    if words is not None:
        _check(words, torch.int32, (zero_point_words(spec.scale_shape, scheme.bits),), "weight_zero_point")
    return weight_zero_points(operands, spec)


def _neutral(
    operands: LinearOperands, scale: torch.Tensor, zeros: torch.Tensor | None, spec: LinearSpec
) -> structs.Neutral:
    # `scale`, and `zeros`, which is int8 of its shape, have to outlive what is returned.
    scheme = spec.scheme.weight
    row = words_per_row(spec.in_features, scheme.bits)
    codes = operands.weight["codes"]
    _check(codes, torch.int32, (spec.out_features, row), "weight")
    return structs.Neutral(
        words=codes.data_ptr(),
        scales=scale.data_ptr(),
        zeros=None if zeros is None else zeros.data_ptr(),
        channels=spec.out_features,
        words_per_row=row,
        width=spec.in_features,
        bits=scheme.bits,
        group=group_of(spec),
        flags=flags_of(spec),
        per_tensor=scheme.granularity == "tensor",
    )


def _check(tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], name: str) -> None:
    is_there = tensor.device.type == "cpu" and tensor.is_contiguous()
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or not is_there:
        raise KernelError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, not contiguous {dtype} {list(shape)} in memory: "
            "load the checkpoint again"
        )


def _library() -> ctypes.CDLL:
    library = load()
    if library is None:
        raise KernelError("the native library is not installed")
    return library
