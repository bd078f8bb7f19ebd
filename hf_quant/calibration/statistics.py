"""What calibration knows of the inputs of a module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def of_all(statistics: Iterable[InputStatistics]) -> InputStatistics:
    """Statistics over the tokens of several modules with inputs of one kind, such as experts of a layer.

    Tokens that several modules saw count as often; the very same statistics, which linears on one tensor share, once.
    """
    parts = list({id(each): each for each in statistics}.values())
    if len(parts) == 1:
        return parts[0]
    count = sum(each.count for each in parts)

    def mean(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros_like(numbers[0])
        for tensor, part in zip(numbers, parts, strict=True):
            total.add_(tensor, alpha=part.count / count)
        return total

    hessians = [each.hessian for each in parts if each.hessian is not None]
    return InputStatistics(
        count,
        mean([each.mean for each in parts]),
        mean([each.mean_abs for each in parts]),
        torch.stack([each.max_abs for each in parts]).amax(0),
        mean(hessians) if len(hessians) == len(parts) else None,
    )


def counted(values: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Rows of a module's input that belong to tokens that count, ``[rows, width]``.

    Args:
        values: Input ``[batch, tokens, ..., width]``, or flattened by the model, ``[batch * tokens, width]``. Of other
            shapes, such as those of pooled tokens, or ``[width]``, all rows count.
        keep: Tokens that count, bool ``[batch, tokens]``; None for all.
    """
    if keep is not None and values.shape[:2] == keep.shape:
        values = values[keep]
    elif keep is not None and values.ndim == 2 and len(values) == keep.numel():
        values = values[keep.flatten()]
    return values.reshape(-1, values.shape[-1])
