"""Whether learned grids are still grids."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn

from hf_quant.errors import TrainingError
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.sharded import is_sharded, local


@torch.no_grad()
def negative_scales(model: nn.Module) -> dict[str, Tensor]:
    """Whether each scale is negative, by the name of its grid: bool; signed grids, and this process's part only."""
    return {name: local(grid.scale) < 0 for name, grid in _grids(model).items() if grid.signed}


@torch.no_grad()
def check_grids(model: nn.Module, negative: Mapping[str, Tensor] | None = None) -> None:
    """Raise TrainingError, with the name of the module, if a learned scale or offset has gone bad.

    Scales are bad that are NaN, infinite, or not positive; where scales have a sign, those of zero, and those that are
    not on the side of zero any more that `negative` says, from `negative_scales`.
    """
    grids = _grids(model)
    if not grids:
        return
    # One transfer for all of them, since this is asked after each step.
    summaries = torch.stack([_summary(grid, (negative or {}).get(name)) for name, grid in grids.items()])
    if any(is_sharded(grid.scale) for grid in grids.values()):
        distributed.all_reduce(summaries, op=distributed.ReduceOp.MAX)
    numbers = summaries.tolist()
    for (name, grid), (initialised, negated, largest) in zip(grids.items(), numbers, strict=True):
        least = -negated
        if not initialised or (least > 0 and largest < math.inf):
            continue
        module, _, quantizer = name.removesuffix(".grid").rpartition(".")
        if least == -math.inf or least > 0:
            what = "holds NaN or infinity"
        else:
            what = "went through zero" if grid.signed and least < 0 else f"is {least:g}"
        raise TrainingError(
            f"the learned scale of the {quantizer.removesuffix('_quantizer')}s of {module} {what}: take a lower "
            "learning_rate or scale_learning_rate, and go on from the last checkpoint"
        )


def _grids(model: nn.Module) -> dict[str, LearnedGrid]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LearnedGrid)}


def _summary(grid: LearnedGrid, negative: Tensor | None) -> Tensor:
    """Whether a grid is initialised, its least scale negated, its largest number: float32 ``[3]``; NaN is infinity.

    Scales that have a sign count by how far they are on their side of zero, or, where that is not known, by their size.
    Of the part that this process holds, so that the maximum over processes is that of the whole.
    """
    scale = local(grid.scale)
    if grid.signed:
        scale = scale.abs() if negative is None else torch.where(negative, -scale, scale)
    numbers = scale if grid.offset is None else torch.cat([scale, local(grid.offset)])
    if not numbers.numel():
        return torch.stack([grid.initialised.float(), scale.new_tensor(-math.inf), scale.new_tensor(0.0)])
    return torch.stack([grid.initialised.float(), -scale.amin(), numbers.abs().amax()]).nan_to_num(math.inf, math.inf)
