"""AWQ in the order of its GEMM kernels: eight 4-bit codes of neighbouring outputs in a word, by turns."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.formats.packing import pack
from hf_quant.layouts.even import Imported, even_weight, expect, in_order, take

BITS = (4,)
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the code of each of eight outputs lies in its word, counted in codes from the low end."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def read(tensors: Mapping[str, torch.Tensor]) -> Imported:
    """A weight of ``(codes - zeros) * scales``.

    Args:
        tensors: ``qweight`` int32 ``[in, out / 8]``, ``qzeros`` int32 ``[groups, out / 8]``, ``scales``
            ``[groups, out]``.

    Raises:
        CheckpointError: A tensor is missing, or does not belong to the others.
        LayoutError: Our formats cannot hold the weight bit for bit.
    """
    words = take(tensors, "qweight", torch.int32)
    packed = take(tensors, "qzeros", torch.int32)
    scale = take(tensors, "scales", *_FLOATS)
    width, groups = len(words), len(scale)
    expect("scales", scale, (groups, 8 * words.shape[1]))
    expect("qzeros", packed, (groups, words.shape[1]))
    scale, zeros = in_order(scale.t().contiguous(), _codes(packed).t().contiguous(), None, width)
    return even_weight(pack(_codes(words).t().contiguous(), 4), zeros, scale, 4, width)


def _codes(words: torch.Tensor) -> torch.Tensor:
    """int8 ``[n, out]`` counted from -8, of int32 ``[n, out / 8]``."""
    pairs = words.contiguous().view(torch.uint8).unflatten(-1, (-1, 4))
    places = torch.stack([pairs & 15, pairs >> 4], -1).flatten(-2)
    return places[..., list(_PLACES)].flatten(-2).to(torch.int8) - 8
