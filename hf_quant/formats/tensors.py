"""The tensors that a quantized matrix consists of."""

from __future__ import annotations

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import scale_dtype
from hf_quant.formats.packing import words_per_row
from hf_quant.formats.zero_points import zero_point_words

TensorFacts = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name to shape and dtype."""


def scale_shape(scheme: TensorScheme, rows: int, width: int) -> tuple[int, int]:
    """Shape of the scales of a matrix ``[rows, width]``, and of its zero points."""
    return (1, 1) if scheme.granularity == "tensor" else (rows, width // (scheme.group_size or width))


def weight_facts(scheme: TensorScheme, rows: int, width: int) -> TensorFacts:
    """Name, shape and dtype of the tensors of a matrix ``[rows, width]``: codes, scale, and perhaps zero_point."""
    scales = scale_shape(scheme, rows, width)
    facts: TensorFacts = {
        "codes": ((rows, words_per_row(width, scheme.bits)), torch.int32),
        "scale": (scales, scale_dtype(scheme)),
    }
    if not scheme.symmetric:
        facts["zero_point"] = ((zero_point_words(scales, scheme.bits),), torch.int32)
    return facts
