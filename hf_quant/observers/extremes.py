"""Lowest and highest values of a batch."""

from __future__ import annotations

import torch


def extremes(values: torch.Tensor, granularity: str) -> dict[str, torch.Tensor]:
    """Lowest and highest values of ``[tokens, features]``, on the CPU: of each feature (``"channel"``) or over all."""
    if granularity == "channel":
        low, high = torch.aminmax(values, dim=0)
    else:
        low, high = torch.aminmax(values)
    return {"low": low.cpu(), "high": high.cpu()}
