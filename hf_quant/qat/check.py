"""Whether learned grids are still grids."""

from __future__ import annotations

import torch
from torch import nn

from hf_quant.errors import TrainingError
from hf_quant.qat.learned_grid import LearnedGrid


@torch.no_grad()
def check_grids(model: nn.Module) -> None:
    """Raise TrainingError, with the name of the module, if a learned scale or offset has gone bad."""
    grids = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LearnedGrid) and module.is_initialised
    }
    if not grids:
        return
    # One transfer for all of them, since this is asked after each step.
    least = torch.stack([grid.scale.amin() for grid in grids.values()]).tolist()
    largest = torch.stack([_largest(grid) for grid in grids.values()]).tolist()
    for name, low, high in zip(grids, least, largest, strict=True):
        if not (low > 0 and high < float("inf")):  # NaN is neither
            module, _, quantizer = name.removesuffix(".grid").rpartition(".")
            raise TrainingError(
                f"the learned scale of {quantizer.removesuffix('_quantizer')}s of {module} is {low:g}, which is no "
                "scale: take a lower scale_learning_rate, and go on from the last checkpoint"
                if not low > 0
                else f"the learned grid of {quantizer.removesuffix('_quantizer')}s of {module} holds NaN or infinity: "
                "take a lower learning rate, and go on from the last checkpoint"
            )


def _largest(grid: LearnedGrid) -> torch.Tensor:
    largest = grid.scale.abs().amax()
    return largest if grid.offset is None else torch.maximum(largest, grid.offset.abs().amax())
