"""What calibration knows of the inputs of a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class InputStatistics:
    """What was gathered about the inputs of one module, over the tokens that the mask keeps.

    Args:
        count: Tokens seen.
        mean: float32 ``[width]``: means of each input.
        mean_abs: float32 ``[width]``: means of magnitudes.
        max_abs: float32 ``[width]``: largest magnitudes.
        hessian: float32 ``[width, width]``: mean of ``x x^T``; None unless something `needs` it.
    """

    count: int
    mean: torch.Tensor
    mean_abs: torch.Tensor
    max_abs: torch.Tensor
    hessian: torch.Tensor | None = None
