"""GPTQ, as AutoGPTQ and GPTQModel write it: unsigned codes packed down the inputs, groups by ``g_idx``.

Each column of ``qweight`` is the same dense stream of bits as one of our rows, of codes that count from 0. Files of
the first version store zero points less one, modulo the range.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats.packing import unpack, words_per_row
from hf_quant.layouts.even import Imported, even_weight, expect, in_order, take, top_bits

BITS = (2, 3, 4, 8)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def read(tensors: Mapping[str, torch.Tensor], bits: int, less_one: bool) -> Imported:
    """A weight of ``scales * (codes - zeros)``.

    Args:
        tensors: ``qweight`` int32 ``[in * bits / 32, out]``, ``qzeros`` int32 ``[groups, out * bits / 32]``, ``scales``
            ``[groups, out]`` and, perhaps, ``g_idx`` int32 ``[in]``.
        bits: 2, 3, 4 or 8.
        less_one: Whether zero points are stored less one (the first version).

    Raises:
        CheckpointError: A tensor is missing, or does not belong to the others.
        LayoutError: Our formats cannot hold the weight bit for bit.
    """
    words = take(tensors, "qweight", torch.int32)
    scale = take(tensors, "scales", *_FLOATS)
    packed = take(tensors, "qzeros", torch.int32)
    width, rest = divmod(words.shape[0] * 32, bits)
    rows, groups = words.shape[1], len(scale)
    expect("scales", scale, (groups, rows))
    expect("qzeros", packed, (groups, words_per_row(rows, bits)))
    if rest:
        raise CheckpointError(f"qweight of {words.shape[0]} rows holds no whole number of {bits}-bit codes")
    zeros = unpack(top_bits(packed, bits, rows), bits, rows).t()
    if less_one:
        half = 2 ** (bits - 1)
        zeros = ((zeros.to(torch.int16) + half + 1) & (2**bits - 1)) - half
    scale, ordered = in_order(scale.t().contiguous(), zeros.contiguous(), tensors.get("g_idx"), width)
    return even_weight(top_bits(words.t().contiguous(), bits, width), ordered, scale, bits, width)
