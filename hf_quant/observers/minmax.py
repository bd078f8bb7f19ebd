"""The range that holds every value seen."""

from __future__ import annotations

import torch

from hf_quant.observers.base import Observer, State
from hf_quant.observers.extremes import extremes


class MinMax(Observer):
    """Lowest and highest value, of the tensor or of each feature. Nothing is clipped; one outlier widens every step."""

    granularities = ("tensor", "channel")

    def _summary(self, values: torch.Tensor) -> State:
        return extremes(values, self.granularity)

    def _combine(self, first: State, second: State) -> State:
        return {
            "low": torch.minimum(first["low"], second["low"]),
            "high": torch.maximum(first["high"], second["high"]),
        }
