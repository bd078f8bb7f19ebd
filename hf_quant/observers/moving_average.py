"""Extremes of batches, averaged with weights that fade (Jacob et al., arXiv:1712.05877, section 3.1)."""

from __future__ import annotations

import torch

from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import Observer, State
from hf_quant.observers.extremes import extremes


class MovingAverage(Observer):
    """Range of the latest batches: ``(1 - averaging_constant) * range + averaging_constant * extremes of the batch``.

    Depends on the order of batches. Observers that are merged give each end the mean of theirs, weighted with the
    number of batches each has seen, so that processes count alike and the order of merging makes no difference.

    Args:
        format: Integer format that the range is for.
        granularity: What has a range: ``"tensor"``, or ``"channel"``, each feature.
        averaging_constant: Weight of a new batch, above 0 and at most 1; the first batch is taken as it is.
    """

    granularities = ("tensor", "channel")
    fields = ("low", "high", "batches")

    def __init__(self, format: AffineFormat, granularity: str = "tensor", averaging_constant: float = 0.1):
        super().__init__(format, granularity)
        if not 0 < averaging_constant <= 1:
            raise ConfigError(f"averaging_constant must be above 0 and at most 1, not {averaging_constant}")
        self.averaging_constant = averaging_constant

    def _summary(self, values: torch.Tensor) -> State:
        return {**extremes(values, self.granularity), "batches": torch.tensor(1)}

    def _next(self, state: State, batch: State) -> State:
        return _averaged(state, batch, self.averaging_constant)

    def _combine(self, first: State, second: State) -> State:
        share = second["batches"] / (first["batches"] + second["batches"])
        return _averaged(first, second, float(share))


def _averaged(first: State, second: State, share: float) -> State:
    ends = {
        name: (first[name].double() * (1 - share) + second[name].double() * share).to(torch.float32)
        for name in ("low", "high")
    }
    return {**ends, "batches": first["batches"] + second["batches"]}
