"""What calibration knows of the inputs of a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class InputStatistics:
    """What was gathered about the inputs of one module, over the tokens that the mask keeps.

    Args:
        count: Number of tokens seen, padding left out.
        mean: Mean of each input, float32 ``[width]``.
        mean_abs: Mean magnitude of each input, float32 ``[width]``.
        max_abs: Largest magnitude of each input, float32 ``[width]``.
        hessian: Second moments of inputs, the mean of ``x x^T``: float32 ``[width, width]``; None unless it is needed.
    """

    count: int
    mean: torch.Tensor
    mean_abs: torch.Tensor
    max_abs: torch.Tensor
    hessian: torch.Tensor | None = None
