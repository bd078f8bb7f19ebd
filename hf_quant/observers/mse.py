"""The range of least expected squared quantization error."""

from __future__ import annotations

import torch

from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import Range, State
from hf_quant.observers.histogram import Histogram
from hf_quant.observers.histogram_observer import HistogramObserver
from hf_quant.observers.shrink import shrink


class MeanSquaredError(HistogramObserver):
    """Range of the least squared error: what clipping loses is weighed against what wide steps lose, over a histogram.

    Args:
        format: Integer format that the range is for.
        granularity: Always ``"tensor"``: one range for all values.
        bins: Bins of the histogram, at least 2.
    """

    def __init__(self, format: AffineFormat, granularity: str = "tensor", bins: int = 2048):
        super().__init__(format, granularity, bins)

    def _range(self, state: State) -> Range:
        histogram = Histogram(**state)
        bins = histogram.filled()

        def cost(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
            return expected_squared_error(self.format, low, high, *bins)

        return shrink(histogram.low, histogram.high, cost, self.format.symmetric)


def expected_squared_error(
    format: AffineFormat,
    low: torch.Tensor,
    high: torch.Tensor,
    counts: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of values spread evenly within each bin, exact for any ratio of bins to steps.

    In units of the scale, ``x`` has the error ``r = x - n``, where ``n`` is the nearest of the codes. An antiderivative
    of ``r^2`` is ``n / 12 + r^3 / 3``, also beyond the last code.

    Args:
        format: Integer format that values are rounded to.
        low: Low ends of the ranges to try, float32 ``[candidates]``.
        high: High ends of the ranges to try, float32 ``[candidates]``.
        counts: Values in each bin, float64 ``[bins]``.
        left: Lower edges of the bins, float64 ``[bins]``.
        right: Upper edges of the bins, float64 ``[bins]``; a bin may be a point.

    Returns:
        float64 ``[candidates]``.
    """
    scale, zero_point = format.scale_and_zero_point(low, high)
    step = scale.double()[:, None]
    offset = torch.zeros_like(step) if zero_point is None else zero_point.double()[:, None]
    first, last = format.quant_min - offset, format.quant_max - offset
    start, end = left / step, right / step
    start_code, end_code = (x.round().clamp(first, last) for x in (start, end))
    a, b = start - start_code, end - end_code
    # Within one code the difference of the two cubes is divided out by hand, which also serves bins without width.
    inside = (a * a + a * b + b * b) / 3
    tiny = torch.finfo(torch.float64).tiny
    across = ((end_code - start_code) / 12 + (b * b * b - a * a * a) / 3) / (end - start).clamp(min=tiny)
    error = torch.where(start_code == end_code, inside, across)
    return (error @ counts) * step[:, 0] ** 2 / counts.sum()
