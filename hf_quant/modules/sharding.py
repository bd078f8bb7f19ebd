"""Quantized weights under FSDP2: every process keeps codes of some rows, and codes are what is gathered.

``fully_shard`` cuts a parameter by ``torch.chunk``, copies its part into zeros, and gathers the parts for each call by
two methods of the tensor (``fsdp_pre_all_gather``, ``fsdp_post_all_gather``). Rows that do not divide evenly among
processes are sharded as the floats that they stand for.
"""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats.packing import code_dtype
from hf_quant.formats.tensors import scale_shape
from hf_quant.formats.zero_points import pack_zero_points, unpack_zero_points
from hf_quant.modules.weight import CODES, Weight


def parts_of(weight: Weight, count: int) -> list[Weight] | None:
    """The rows of a weight in `count` parts of its scheme; None where they do not divide evenly."""
    if weight.rows % count or weight.rows == 0:
        return None
    by_row = _by_row(weight.scheme, weight.rows, weight.width, weight.neutral())
    step = weight.rows // count
    return [_weight(weight, {k: t[i * step : (i + 1) * step].clone() for k, t in by_row.items()}) for i in range(count)]


def empty_part(weight: Weight, rows: int) -> Weight:
    """A weight of the same scheme with uninitialised rows, to be copied into."""
    part = Weight(weight.scheme, rows, weight.width, {})
    part.tensors = {name: torch.zeros(s, dtype=d, device=weight.device) for name, (s, d) in part.facts.items()}
    part.name, part.products, part.is_table = weight.name, weight.products, weight.is_table
    return part


def to_gather(weight: Weight) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """The tensors of a part that are gathered, and their names."""
    by_row = _by_row(weight.scheme, weight.rows, weight.width, weight.neutral())
    return tuple(by_row.values()), tuple(by_row)


def gathered(weight: Weight, outputs: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> Weight:
    """The whole weight from what all processes gave; for a call only, so that no kernel makes a layout of it.

    Args:
        weight: The part of this process.
        outputs: Gathered along the rows.
        names: From `to_gather`.
    """
    whole = _weight(weight, dict(zip(names, outputs, strict=True)))
    whole.is_visiting = True
    return whole


def _by_row(scheme: TensorScheme, rows: int, width: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors with a first dimension of rows each: one scale for all is repeated, zero points are unpacked."""
    found = {CODES: tensors[CODES]}
    found["scale"] = tensors["scale"].expand(rows, -1).contiguous()
    if "zero_point" in tensors:
        shape = scale_shape(scheme, rows, width)
        zeros = unpack_zero_points(tensors["zero_point"], scheme.bits, shape)
        found["zero_point"] = zeros.to(code_dtype(scheme.bits)).expand(rows, -1).contiguous()
    return found


def _weight(like: Weight, by_row: dict[str, Any]) -> Weight:
    tensors = dict(by_row)
    rows = len(tensors[CODES])
    one = like.scheme.granularity == "tensor"
    if one:
        tensors["scale"] = tensors["scale"][:1]
    if "zero_point" in tensors:
        zeros = tensors["zero_point"][:1] if one else tensors["zero_point"]
        tensors["zero_point"] = pack_zero_points(zeros.contiguous(), like.scheme.bits)
    part = Weight(like.scheme, rows, like.width, tensors)
    part.name, part.products, part.is_table = like.name, like.products, like.is_table
    return part
