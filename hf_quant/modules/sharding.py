"""Quantized weights under FSDP2: every process keeps codes of some rows, and codes are what is gathered.

``fully_shard`` cuts a parameter by ``torch.chunk``, copies its part into zeros, and gathers the parts for each call by
two methods of the tensor (``fsdp_pre_all_gather``, ``fsdp_post_all_gather``). Rows that do not divide evenly among
processes are sharded as the floats that they stand for.
"""

from __future__ import annotations

import torch

from hf_quant.formats import format_of
from hf_quant.formats.base import Tensors
from hf_quant.modules.weight import CODES, Weight


def parts_of(weight: Weight, count: int) -> list[Weight] | None:
    """The rows of a weight in `count` parts of its scheme; None where they do not divide evenly."""
    if weight.rows % count or weight.rows == 0:
        return None
    step = weight.rows // count
    by_row = _by_row(weight)
    return [
        _of_rows(weight, {name: tensor[i * step : (i + 1) * step].clone() for name, tensor in by_row.items()})
        for i in range(count)
    ]


def empty_part(weight: Weight, rows: int) -> Weight:
    """Rows of zeros of the same scheme, to be copied into."""
    part = Weight(weight.scheme, rows, weight.width, {})
    facts = part.facts.items()
    zeros = {name: torch.zeros(shape, dtype=dtype, device=weight.device) for name, (shape, dtype) in facts}
    return weight.like(zeros, rows)


def to_gather(weight: Weight) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """The tensors of a part that are gathered, and their names."""
    by_row = _by_row(weight)
    return tuple(tensor.contiguous() for tensor in by_row.values()), tuple(by_row)


def gathered(part: Weight, outputs: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> Weight:
    """The whole weight from what all processes gave; for a call only, so that no kernel makes a layout of it.

    Args:
        part: Rows that this process keeps.
        outputs: Gathered along the rows.
        names: Name of each gathered tensor, as `to_gather` gave them.
    """
    whole = _of_rows(part, dict(zip(names, outputs, strict=True)))
    whole.is_visiting = True
    return whole


def _by_row(weight: Weight) -> dict[str, torch.Tensor]:
    return format_of(weight.scheme).by_row(weight.neutral(), weight.matrix)


def _of_rows(weight: Weight, by_row: Tensors) -> Weight:
    return weight.like(format_of(weight.scheme).of_rows(by_row, weight.neutral()), len(by_row[CODES]))
