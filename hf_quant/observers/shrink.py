"""Search for the best range within the one observed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hf_quant.observers.base import Range

Cost = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Function from float32 low and high ends of ranges, ``[candidates]`` each, to their costs, ``[candidates]``."""

_COARSE = torch.exp2(-torch.arange(41) / 4)
"""Factors of a range, down to a thousandth: outliers may be hundreds of times as far out as all else."""
_FINE = torch.exp2(torch.arange(8, -9, -1) / 32)
"""Factors of a range between two coarse ones, in steps of 2 %."""
_FINE_ROUNDS = 3


def shrink(low: torch.Tensor, high: torch.Tensor, cost: Cost, symmetric: bool) -> Range:
    """The cheapest range found, never dearer than ``[low, high]`` widened to hold zero.

    Symmetric ranges shrink as one. Otherwise both ends shrink together, then each alone, then again in finer steps.

    Args:
        low: Lowest value, float32, 0-dimensional.
        high: Highest value, float32, 0-dimensional.
        cost: Function of ranges to minimise; of ranges that cost the same the widest is taken.
        symmetric: Whether the range is to be as wide below zero as above it.
    """
    ends = torch.stack([low.clamp(max=0), high.clamp(min=0)])
    if symmetric:
        ends = ends.abs().max() * torch.tensor([-1.0, 1.0])
    moves = [(True, True)] if symmetric else [(True, True), (True, False), (False, True)]
    best = ends
    for step in [_COARSE, *[_FINE] * _FINE_ROUNDS]:
        before = best
        for move in moves:
            factors = torch.where(torch.tensor(move), step[:, None], 1.0)
            candidates = torch.stack(
                [(best[0] * factors[:, 0]).clamp(min=ends[0]), (best[1] * factors[:, 1]).clamp(max=ends[1])]
            )
            costs = cost(*candidates)
            best = candidates[:, int((costs == costs.min()).nonzero()[0])]
        if step is _FINE and torch.equal(best, before):
            break
    # Not beyond what was seen: a symmetric range of values of one sign needs but one side.
    return best[0].clamp(min=low.clamp(max=0)), best[1].clamp(max=high.clamp(min=0))
