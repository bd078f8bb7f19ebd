"""Whether learned grids are still grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hf_quant.errors import TrainingError
from hf_quant.qat.learned_grid import LearnedGrid


@torch.no_grad()
def check_grids(model: nn.Module) -> None:
    """Raise TrainingError, with the name of the module, if a learned scale or offset has gone bad."""
    grids = {name: module for name, module in model.named_modules() if isinstance(module, LearnedGrid)}
    if not grids:
        return
    # One transfer for all of them, since this is asked after each step.
    numbers = torch.stack([_summary(grid) for grid in grids.values()]).tolist()
    for name, (initialised, least, largest) in zip(grids, numbers, strict=True):
        if not initialised or (least > 0 and largest < math.inf):  # NaN is neither
            continue
        module, _, quantizer = name.removesuffix(".grid").rpartition(".")
        what = f"is {least:g}" if least <= 0 else "holds NaN or infinity"
        raise TrainingError(
            f"the learned scale of the {quantizer.removesuffix('_quantizer')}s of {module} {what}: take a lower "
            "learning_rate or scale_learning_rate, and go on from the last checkpoint"
        )


def _summary(grid: LearnedGrid) -> Tensor:
    """Whether it is initialised, the least scale and the largest number, float32 ``[3]``."""
    largest = grid.scale.abs().amax()
    if grid.offset is not None:
        largest = torch.maximum(largest, grid.offset.abs().amax())
    return torch.stack([grid.initialised.float(), grid.scale.amin(), largest])
