"""NF4 of bitsandbytes: blocks of numbers in the order of the rows, two codes a byte, the first in the high half.

A block's scale is its largest magnitude, float32, or itself a code of 8 bits on a table, times a scale of its own
block, plus one offset for all (double quantization). Our scales are what it decodes to, in the same operations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats import format_of
from hf_quant.formats.nf4 import NF4
from hf_quant.formats.packing import pack
from hf_quant.layouts.even import Imported, expect, take

STATE = "weight.quant_state.bitsandbytes__nf4"
"""Short name of what says how a weight is stored: JSON, as uint8."""
NESTED = ("weight.nested_absmax", "weight.nested_quant_map")
_ZERO = NF4.levels.index(0.0)


def read(tensors: Mapping[str, torch.Tensor]) -> Imported:
    """A weight of ``levels[code] * absmax`` of its block.

    Args:
        tensors: ``weight`` uint8 ``[numbers / 2, 1]``, ``weight.absmax`` float32 ``[blocks]`` (uint8 where nested),
            ``weight.quant_map`` float32 ``[16]``, those of `NESTED` where nested, and `STATE`.

    Raises:
        CheckpointError: A tensor is missing, or does not belong to the others.
        LayoutError: Levels are not those of NF4, or blocks do not fit into rows.
    """
    state = _state(tensors)
    rows, width, size = state["shape"][0], state["shape"][1], state["blocksize"]
    packed = take(tensors, "weight", torch.uint8)
    expect("weight", packed, ((rows * width + 1) // 2, 1))
    if not torch.equal(take(tensors, "weight.quant_map", torch.float32, ndim=1), torch.tensor(NF4.levels)):
        raise LayoutError("its table of levels is not that of NF4: only that is kept bit for bit")
    if rows * width % 2 or (width % size and size % width):
        raise LayoutError(f"blocks of {size} numbers reach over rows of {width}: take a blocksize that divides them")
    scale = _scales(tensors, state, math.ceil(rows * width / size))
    if not bool((scale.isfinite() & (scale >= 0)).all()):
        raise CheckpointError("a scale is negative, NaN or infinite: download the checkpoint again")
    # A block of several rows is their scale, each; one of a part of a row is a group.
    groups = width // size if width > size else 1
    scale = scale.repeat_interleave(size // width)[:rows, None] if size > width else scale.view(rows, groups)
    codes = torch.stack([packed >> 4, packed & 15], -1).view(rows, groups, -1)
    codes = torch.where((scale == 0)[..., None], _ZERO, codes).view(rows, width).to(torch.int8) - 8
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    in_groups = {"granularity": "group", "group_size": size, "scale_dtype": "float32"} if groups > 1 else {}
    scheme = TensorScheme("nf4", 4, **in_groups)
    stored = format_of(scheme).stored(pack(codes, 4), (scale.contiguous(), None), "a weight")
    return Imported(scheme, rows, width, stored)


def _state(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    try:
        found = json.loads(bytes(take(tensors, STATE, torch.uint8, ndim=1).tolist()))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{STATE} cannot be read: {error}") from error
    shape = found.get("shape") if isinstance(found, dict) else None
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_size(each) for each in shape):
        raise CheckpointError(f"{STATE} names no shape of a matrix: download the checkpoint again")
    if not _is_size(found.get("blocksize")) or found.get("quant_type") != "nf4":
        raise CheckpointError(f"{STATE} is not that of NF4, or names no blocksize: download the checkpoint again")
    return dict(found)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _scales(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], blocks: int) -> torch.Tensor:
    absmax = take(tensors, "weight.absmax", torch.float32, torch.uint8, ndim=1)
    expect("weight.absmax", absmax, (blocks,))
    if absmax.dtype == torch.float32:
        return absmax
    outer, table = (take(tensors, name, torch.float32, ndim=1) for name in NESTED)
    size: Any = state.get("nested_blocksize")
    offset = state.get("nested_offset")
    if not _is_size(size) or not isinstance(offset, float) or not math.isfinite(offset):
        raise CheckpointError(f"{STATE} names no blocks or no offset of its scales: download the checkpoint again")
    expect(NESTED[0], outer, (math.ceil(blocks / size),))
    expect(NESTED[1], table, (256,))
    return table[absmax.to(torch.int64)] * outer.repeat_interleave(size)[:blocks] + offset
