"""The range whose codes keep the most information about the distribution.

TensorRT's entropy calibration (S. Migacz, "8-bit Inference with TensorRT", GTC 2017), which takes magnitudes, for
ranges with two ends: values beyond either end are counted at that end, and codes are those of the format's own grid.
"""

from __future__ import annotations

import torch

from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import Range, State
from hf_quant.observers.histogram import Histogram
from hf_quant.observers.histogram_observer import HistogramObserver
from hf_quant.observers.shrink import shrink


class HistogramKL(HistogramObserver):
    """Range of the least Kullback-Leibler divergence of the quantized distribution from the clipped one.

    As in TensorRT a range has at least as many bins as there are codes, since within a narrower one nothing would be
    lost. So a format of more codes than bins, such as one of 16 bits, gets the full range.

    Args:
        format: Integer format that the range is for.
        granularity: Always ``"tensor"``: one range for all values.
        bins: Bins of the histogram; the default is 32 for each code of 8 bits.
    """

    def __init__(self, format: AffineFormat, granularity: str = "tensor", bins: int = 8192):
        super().__init__(format, granularity, bins)

    def _range(self, state: State) -> Range:
        histogram = Histogram(**state)
        counts, left, right = histogram.filled()
        counts = without_peak_at_zero(counts, left, right)
        narrowest = histogram.width * (self.format.quant_max - self.format.quant_min + 1)

        def cost(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
            costs = torch.full(low.shape, torch.inf, dtype=torch.float64)
            wide = high.double() - low.double() >= narrowest
            costs[wide] = divergences(self.format, low[wide], high[wide], counts, (left + right) / 2)
            return costs

        return shrink(histogram.low, histogram.high, cost, self.format.symmetric)


def without_peak_at_zero(counts: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Counts with that of zero's bin lowered to the larger one beside it.

    Zero is exact in every range, but where it is as frequent as after a ReLU it would outweigh all else that shares its
    code. TensorRT's first bin is set to the second for the same reason.
    """
    zero = int((right > 0).to(torch.int64).argmax())
    beside = counts[[index for index in (zero - 1, zero + 1) if 0 <= index < len(counts)]]
    if left[zero] > 0 or not len(beside):
        return counts
    counts = counts.clone()
    counts[zero] = torch.minimum(counts[zero], beside.max())
    return counts


def divergences(
    format: AffineFormat, low: torch.Tensor, high: torch.Tensor, counts: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """Divergence ``sum(p * log(p / q))`` for each range, in nats.

    Args:
        format: Integer format that values are rounded to.
        low: Low ends of the ranges to try, float32 ``[candidates]``.
        high: High ends of the ranges to try, float32 ``[candidates]``.
        counts: Values in each bin that is not empty, float64 ``[bins]``.
        centers: Centers of these bins, float64 ``[bins]``, ascending.

    Returns:
        float64 ``[candidates]``; infinite for a range without values.
    """
    scales, zero_points = format.scale_and_zero_point(low, high)
    costs = torch.full(low.shape, torch.inf, dtype=torch.float64)
    for index, scale in enumerate(scales):
        first = int(torch.searchsorted(centers, low[index].double()))
        end = int(torch.searchsorted(centers, high[index].double(), right=True))
        if first < end:
            zero_point = None if zero_points is None else zero_points[index]
            codes = format.encode(centers[first:end].to(torch.float32), scale, zero_point).to(torch.int64)
            outside = float(counts[:first].sum()), float(counts[end:].sum())
            costs[index] = _divergence(counts[first:end], codes - codes[0], *outside)
    return costs


def _divergence(inside: torch.Tensor, codes: torch.Tensor, below: float, above: float) -> float:
    """Divergence of the distribution, outliers at its ends, from what codes tell: the mean of each code's bins."""
    reference = inside.clone()
    reference[0] += below
    reference[-1] += above
    told = (torch.bincount(codes, weights=inside) / torch.bincount(codes))[codes]
    p, q = reference / reference.sum(), told / told.sum()
    return float((p * (p / q).log()).sum())
