"""Experts that calibration sends few tokens or none: what they get in place of what tokens would have told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch

from hf_quant.calibration.collect import Collector
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.config.scheme import Scheme
from hf_quant.observers.base import Observer, grid

Grid = tuple[torch.Tensor, torch.Tensor | None]

_NAMED = 3
"""Experts that a warning names."""


@dataclass
class Starved:
    """Linears of experts that got too few tokens for what a recipe does, over a run.

    Args:
        tokens: Full name of the linear to the tokens that its expert got.
        experts: Number of experts that were calibrated.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    experts: int = 0

    def __str__(self) -> str:
        """What a warning says; empty where there are none."""
        experts = {name.rpartition(".")[0]: tokens for name, tokens in self.tokens.items()}
        if not experts:
            return ""
        layers = {name.rpartition(".")[0] for name in experts}
        named = ", ".join(f"{name} ({tokens})" for name, tokens in list(experts.items())[:_NAMED])
        return (
            f"{len(experts)} of {self.experts} experts, in {len(layers)} layers, got too few tokens of the data, such "
            f"as {named}. What needs more was left out for them: weights are rounded to nearest, static inputs take "
            "the widest range among the experts of the layer. Calibrate on more data; "
            "model.hf_quantizer.starved_experts lists the linears"
        )


def tokens_of_experts(collector: Collector, inputs: Mapping[str, InputStatistics]) -> dict[str, int]:
    """Tokens that each watched linear within an expert got, by its name in the block."""
    return {name: inputs[name].count if name in inputs else 0 for name in collector.layers}


def grids_of(collector: Collector, schemes: Mapping[str, Scheme], few: Collection[str]) -> dict[str, Grid]:
    """Grids of the static inputs that were observed; of those in `few`, on the widest range in their layer of experts.

    Args:
        collector: Has watched a block.
        schemes: Schemes by the linear's name; only experts of one scheme are on one scale.
        few: Linears within experts that got few tokens.
    """
    observers = collector.observers

    def alike(name: str, other: str) -> bool:
        same = collector.layers.get(other) == collector.layers[name] and schemes[other] == schemes[name]
        return same and other.rpartition(".")[2] == name.rpartition(".")[2]

    grids = {}
    for name, observer in observers.items():
        peers = [each for other, each in observers.items() if name in few and alike(name, other) and each.state()]
        grids[name] = _widest(observer, peers) if peers else grid(observer)
    return grids


def _widest(observer: Observer, peers: list[Observer]) -> Grid:
    lows, highs = zip(*(each.range() for each in peers), strict=True)
    return observer.format.scale_and_zero_point(torch.stack(lows).amin(0), torch.stack(highs).amax(0))
