"""What observers have in common that choose their range from a histogram."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import Observer, State
from hf_quant.observers.histogram import Histogram


class HistogramObserver(Observer):
    """Base of observers that choose the range of a tensor from a histogram of its values.

    Per tensor only: a histogram for each feature would take more memory than the model.

    Args:
        format: Integer format that the range is for.
        granularity: Always ``"tensor"``: one range for all values.
        bins: Bins of the histogram, at least 2. From half of them on up hold the range seen.
    """

    fields = ("low", "high", "counts")

    def __init__(self, format: AffineFormat, granularity: str = "tensor", bins: int = 4096):
        super().__init__(format, granularity)
        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
            raise ConfigError(f"bins must be an integer of at least 2, not {bins!r}")
        self.bins = bins

    def _summary(self, values: torch.Tensor) -> State:
        return vars(Histogram.of(values, self.bins))

    def _combine(self, first: State, second: State) -> State:
        return vars(Histogram(**first).merged(Histogram(**second)))

    def _loaded(self, state: Mapping[str, torch.Tensor]) -> State:
        loaded = super()._loaded(state)
        if loaded["counts"].shape != (self.bins,):
            raise CalibrationError(f"the state has {len(loaded['counts'])} bins: pass bins=... as it was made with")
        return loaded
