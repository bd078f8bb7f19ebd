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


def counted(values: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Rows of a module's input that belong to tokens that count, ``[rows, width]``.

    Args:
        values: Input ``[batch, tokens, ..., width]``, or flattened by the model, ``[batch * tokens, width]``. Of other
            shapes, such as those of pooled tokens, all rows count.
        keep: Tokens that count, bool ``[batch, tokens]``; None for all.
    """
    if keep is not None and values.shape[:2] == keep.shape:
        values = values[keep]
    elif keep is not None and values.ndim == 2 and len(values) == keep.numel():
        values = values[keep.flatten()]
    return values.flatten(0, -2)
