"""Whether learned grids are still grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn

from hf_quant.errors import TrainingError
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.sharded import is_sharded, local


@torch.no_grad()
def check_grids(model: nn.Module) -> None:
    """Raise TrainingError, with the name of the module, if a learned scale or offset has gone bad.

    Scales are bad that are NaN, infinite, or not positive; where scales have a sign, those of zero.
    """
    grids = {name: module for name, module in model.named_modules() if isinstance(module, LearnedGrid)}
    if not grids:
        return
    # One transfer for all of them, since this is asked after each step.
    summaries = torch.stack([_summary(grid) for grid in grids.values()])
    if any(is_sharded(grid.scale) for grid in grids.values()):
        distributed.all_reduce(summaries, op=distributed.ReduceOp.MAX)
    numbers = summaries.tolist()
    for name, (initialised, negative, largest) in zip(grids, numbers, strict=True):
        least = -negative
        if not initialised or (least > 0 and largest < math.inf):
            continue
        module, _, quantizer = name.removesuffix(".grid").rpartition(".")
        what = f"is {least:g}" if -math.inf < least <= 0 else "holds NaN or infinity"
        raise TrainingError(
            f"the learned scale of the {quantizer.removesuffix('_quantizer')}s of {module} {what}: take a lower "
            "learning_rate or scale_learning_rate, and go on from the last checkpoint"
        )


def _summary(grid: LearnedGrid) -> Tensor:
    """Whether it is initialised, the least scale, negated, and the largest number, float32 ``[3]``; NaN is infinity.

    Scales that have a sign count by their size. Of the part that this process holds, so that the maximum over
    processes is that of the whole.
    """
    scale = local(grid.scale).abs() if grid.signed else local(grid.scale)
    numbers = scale if grid.offset is None else torch.cat([scale, local(grid.offset)])
    if not numbers.numel():
        return torch.stack([grid.initialised.float(), scale.new_tensor(-math.inf), scale.new_tensor(0.0)])
    return torch.stack([grid.initialised.float(), -scale.amin(), numbers.abs().amax()]).nan_to_num(math.inf, math.inf)
