"""Histograms of a fixed number of bins whose width is a power of two.

Bins begin at multiples of their width, so a bin of twice the width holds two whole bins. Width and first bin follow
from the lowest and highest value alone. Hence counts are the same whether values come at once, in batches or in parts
that are merged, in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_LEAST_EXPONENT = -149
"""Every float32 is a multiple of 2**-149."""
_CHUNK = 2**20


@dataclass(frozen=True)
class Histogram:
    """Counts of values, over a span that always holds zero, as grids do.

    Args:
        counts: Number of values in each bin, int64 ``[bins]``; at least two bins.
        low: Lowest value, float32, 0-dimensional.
        high: Highest value, float32, 0-dimensional.
    """

    counts: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, bins: int) -> Histogram:
        """Histogram of finite float32 values of any shape, at least one."""
        low, high = torch.aminmax(values)
        exponent, start = _placed(float(low), float(high), bins)
        counts = torch.zeros(bins, dtype=torch.int64, device=values.device)
        for chunk in values.reshape(-1).split(_CHUNK):
            # float64, which scales every float32 by every such power without rounding.
            index = (chunk.double() * math.ldexp(1.0, -exponent)).floor_().to(torch.int64)
            counts += torch.bincount(index - start, minlength=bins)
        return cls(counts.cpu(), low.cpu(), high.cpu())

    def merged(self, other: Histogram) -> Histogram:
        """Histogram of the values of both, which have the same number of bins."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return Histogram(self._spread(low, high) + other._spread(low, high), low, high)

    @property
    def width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, _placed(float(self.low), float(self.high), len(self.counts))[0])

    def filled(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bins that are not empty, in order: counts and both edges, float64, edges cut to the values' own extremes."""
        low, high = float(self.low), float(self.high)
        _, start = _placed(low, high, len(self.counts))
        index = self.counts.nonzero().flatten()
        left = (index + start).double() * self.width
        return self.counts[index].double(), left.clamp(low, high), (left + self.width).clamp(low, high)

    def _spread(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Counts in the bins of a histogram from `low` to `high`, which are no narrower."""
        exponent, start = _placed(float(self.low), float(self.high), len(self.counts))
        wider_exponent, wider_start = _placed(float(low), float(high), len(self.counts))
        index = self.counts.nonzero().flatten()
        # A shift to the right rounds down, for negative bins too.
        wider = ((index + start) >> min(wider_exponent - exponent, 62)) - wider_start
        return torch.zeros_like(self.counts).index_add_(0, wider, self.counts[index])


def _placed(low: float, high: float, bins: int) -> tuple[int, int]:
    """Exponent of the least width with which `bins` hold zero and all from `low` to `high`, and the first bin's number.

    Bin ``n`` holds ``[n, n + 1) * 2**exponent``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return _LEAST_EXPONENT, 0
    exponent = max(math.frexp((high - low) / bins)[1] - 2, _LEAST_EXPONENT)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent, math.floor(math.ldexp(low, -exponent))
