"""Float weights to neutral codes by the native library: the numbers of `formats.affine`, several times as fast."""

from __future__ import annotations

import ctypes

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import KernelError
from hf_quant.formats import AffineFormat, format_of, scale_dtype
from hf_quant.formats.packing import words_per_row
from hf_quant.kernels.native import structs
from hf_quant.kernels.native.library import load
from hf_quant.kernels.openmp import threads_for

_ROWS_BYTES = 1 << 26
"""Bytes of a weight that lies transposed that are turned at a time."""


def can_quantize(weight: torch.Tensor, scheme: TensorScheme) -> bool:
    """Whether `quantize_rows` takes this weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in structs.FLOAT_DTYPES
        and scheme.granularity in ("channel", "group")
        and scheme.has_scales
        and type(format_of(scheme)) is AffineFormat
        and scheme.bits <= 8
        and scale_dtype(scheme) is (torch.bfloat16 if scheme.granularity == "group" else torch.float32)
        and load() is not None
    )


def quantize_rows(
    weight: torch.Tensor,
    scheme: TensorScheme,
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    trials: int = 0,
    narrowest: float = 1.0,
) -> bool:
    """Round a float matrix to nearest, into tensors that are there already.

    Args:
        weight: Weight ``[rows, width]`` in float32, bfloat16 or float16, for which `can_quantize` is true.
        scheme: Format of the weight, per channel or group; the group size divides the width.
        codes: Output for packed codes, int32 ``[rows, words]``.
        scale: Output for scales, float32 ``[rows, 1]`` or bfloat16 ``[rows, groups]``.
        zero_point: Output for zero points, int8 of the shape of `scale`; None for symmetric schemes.
        trials: Number of ranges to try for each channel or group, from the whole one down to `narrowest` of it; the one
            with the least squared error is taken. 0: the whole range.
        narrowest: Share of the range that the last trial keeps.

    Returns:
        False where the weight holds NaN or Inf; what was written is then of no use.

    Raises:
        KernelError: A tensor has another shape or dtype than it should.
    """
    rows, width = weight.shape
    groups = width // scheme.group_size if scheme.group_size else 1
    grouped = scheme.granularity == "group"
    _check(codes, torch.int32, (rows, words_per_row(width, scheme.bits)))
    _check(scale, torch.bfloat16 if grouped else torch.float32, (rows, groups))
    if (zero_point is None) != scheme.symmetric or not can_quantize(weight, scheme) or width < 1:
        raise KernelError(f"quantize_rows does not take {weight.dtype} {list(weight.shape)} for this scheme")
    if zero_point is not None:
        _check(zero_point, torch.int8, (rows, groups))
    if scheme.rotation is not None and width % scheme.rotation:
        raise KernelError(f"rotation={scheme.rotation} does not divide the width {width}")
    if scheme.group_size and width % scheme.group_size:
        raise KernelError(f"group_size={scheme.group_size} does not divide the width {width}")
    library = load()
    assert library is not None
    # Rows have to be contiguous. One that is the transpose of something is turned part by part.
    step = rows if weight.stride(1) == 1 or width == 1 else max(1, _ROWS_BYTES // (width * weight.element_size()))
    for start in range(0, rows, max(step, 1)):
        part = slice(start, min(start + step, rows))
        real = weight[part] if step == rows else weight[part].contiguous()
        request = structs.Quantize(
            data=real.data_ptr(),
            words=codes[part].data_ptr(),
            scales=scale[part].data_ptr(),
            zeros=None if zero_point is None else zero_point[part].data_ptr(),
            rows=real.shape[0],
            stride=real.stride(0),
            words_per_row=codes.shape[1],
            dtype=structs.FLOAT_DTYPES[weight.dtype],
            width=width,
            bits=scheme.bits,
            group=scheme.group_size or 0,
            rotation=scheme.rotation or 0,
            steps=trials,
            narrowest=narrowest,
        )
        status = library.hf_quant_quantize(ctypes.byref(request), threads_for(real.numel()))
        if status == 2:
            return False
        if status:
            raise KernelError(structs.STATUS[status])
    return True


def _check(tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    is_there = tensor.device.type == "cpu" and tensor.is_contiguous()
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or not is_there:
        raise KernelError(
            f"{tensor.dtype} {list(tensor.shape)} on {tensor.device} is not contiguous {dtype} {list(shape)} on cpu"
        )
