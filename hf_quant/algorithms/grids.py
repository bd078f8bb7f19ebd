"""Scales and zero points of weights: from the extremes, or from a range clipped to the least squared error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hf_quant.errors import ConfigError
from hf_quant.formats.base import Format, Grid


@dataclass(frozen=True)
class Clipping:
    """Ranges that are tried: both ends of the whole one are shrunk by the same factor.

    Args:
        trials: Number of ranges, 2 at least. The first is the whole one.
        narrowest: Share of the range that the last trial keeps, more than 0 and less than 1; the others lie evenly
            between.

    Raises:
        ConfigError: A value is out of range.
    """

    trials: int = 41
    narrowest: float = 0.4

    def __post_init__(self) -> None:
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 2:
            raise ConfigError(f"trials must be an integer of 2 or more, not {self.trials!r}")
        if not isinstance(self.narrowest, float) or not 0 < self.narrowest < 1:
            raise ConfigError(f"narrowest must be a share of the range between 0 and 1, not {self.narrowest!r}")

    def shares(self) -> list[float]:
        """Shares of the range, from 1 down to `narrowest`, in float32 arithmetic as the native kernels have it."""
        steps = torch.arange(self.trials, dtype=torch.float32, device="cpu")
        narrowest = torch.tensor(self.narrowest, dtype=torch.float32, device="cpu")
        return (1 - (1 - narrowest) * steps / (self.trials - 1)).tolist()


def choose(
    real: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    format: Format,
    clipping: Clipping | None = None,
    importance: torch.Tensor | None = None,
) -> Grid:
    """Choose a grid, scale and zero point, for each row of numbers.

    Args:
        real: Numbers to round, float32 ``[..., n]``.
        low: Smallest number of each row, ``[...]``.
        high: Largest number of each row, ``[...]``.
        format: Format that numbers and scales are rounded to: errors are those of scales as they are stored.
        clipping: Ranges to try; None takes the whole range. The one with the least sum of
            ``importance * (real - rounded) ** 2`` is taken, and of ranges that are equally good the widest.
        importance: Factor of each number's squared error, not negative; broadcasts against `real`. None: all alike.

    Returns:
        Scale and zero point ``[...]``.
    """
    scale, zero_point = format.weight_grid(low, high)
    if clipping is None:
        return scale, zero_point
    least = squared_error(real, scale, zero_point, format, importance)
    for share in clipping.shares()[1:]:
        tried, tried_zero = format.weight_grid(low * share, high * share)
        error = squared_error(real, tried, tried_zero, format, importance)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, tried, scale)
        if zero_point is not None and tried_zero is not None:
            zero_point = torch.where(better, tried_zero, zero_point)
    return scale, zero_point


def choose_one(
    blocks: Iterable[torch.Tensor],
    low: torch.Tensor,
    high: torch.Tensor,
    format: Format,
    clipping: Clipping | None = None,
    importance: torch.Tensor | None = None,
) -> Grid:
    """One grid for all of a tensor, whose rows come in blocks; the range is chosen as by `choose`.

    Args:
        blocks: Rows of the tensor, float32 ``[rows, width]`` at a time; read once, and not at all without `clipping`.
        low: Smallest number of the tensor, ``[]``.
        high: Largest number of the tensor, ``[]``.
        format: Format that numbers and scales are rounded to.
        clipping: Ranges to try; None takes the whole range.
        importance: Factor of the squared errors of each input, not negative, ``[width]``; None: all alike.

    Returns:
        Scale and zero point ``[1, 1]``.
    """
    shares = torch.tensor([1.0] if clipping is None else clipping.shares(), device=low.device)
    scales, zero_points = format.weight_grid(low * shares, high * shares)
    best = 0
    if clipping is not None:
        errors = torch.zeros(len(shares), dtype=torch.float64, device=low.device)
        for block in blocks:
            for trial in range(len(shares)):
                zero_point = None if zero_points is None else zero_points[trial]
                errors[trial] += squared_error(block, scales[trial], zero_point, format, importance).double().sum()
        # The first of the least, which `argmin` does not promise.
        found = errors.tolist()
        best = found.index(min(found))
    return scales[best].view(1, 1), None if zero_points is None else zero_points[best].view(1, 1)


def squared_error(
    real: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    format: Format,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared rounding errors, ``importance * (real - rounded) ** 2`` summed over the last dimension, float32.

    `scale` and `zero_point`, ``[...]`` or ``[]``, are those of whole rows. Rounds as `Format.encode`, but stays
    in float32 from the numbers to the errors.
    """
    zero = None if zero_point is None else zero_point[..., None]
    levels = format.nearest(real * scale.reciprocal()[..., None], zero)
    squares = levels.mul_(scale[..., None]).sub_(real).square_()
    return (squares if importance is None else squares.mul_(importance)).sum(-1)
