"""The range that holds a given part of the values."""

from __future__ import annotations

import torch

from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import Range, State
from hf_quant.observers.histogram import Histogram
from hf_quant.observers.histogram_observer import HistogramObserver


class Percentile(HistogramObserver):
    """Range that holds at least `percentile` of 100 values, to within a bin of the narrowest such range.

    Asymmetric formats leave out as much at either end; symmetric ones leave out the largest magnitudes.

    Args:
        format: Integer format that the range is for.
        granularity: Always ``"tensor"``: one range for all values.
        percentile: Percentage of values that the range holds, above 0 and at most 100.
        bins: Bins of the histogram, at least 2.
    """

    def __init__(self, format: AffineFormat, granularity: str = "tensor", percentile: float = 99.99, bins: int = 4096):
        super().__init__(format, granularity, bins)
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile must be above 0 and at most 100, not {percentile}")
        self.percentile = percentile

    def _range(self, state: State) -> Range:
        counts, left, right = Histogram(**state).filled()
        spare = float(counts.sum()) * (100 - self.percentile) / 100
        if self.format.symmetric:
            outer, order = torch.maximum(left.abs(), right.abs()).sort()
            largest = outer[_last_kept(counts[order], spare)]
            low, high = left[0].clamp(min=-largest), right[-1].clamp(max=largest)
        else:
            high = right[_last_kept(counts, spare / 2)]
            low = left.flip(0)[_last_kept(counts.flip(0), spare / 2)]
        return low.to(torch.float32), high.to(torch.float32)


def _last_kept(counts: torch.Tensor, spare: float) -> int:
    """The last bin with which at most `spare` values lie beyond."""
    beyond = counts.sum() - counts.cumsum(0)
    return int((beyond <= spare).nonzero()[0])
