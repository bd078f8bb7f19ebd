"""How many experts each token goes to, and what share of a layer's experts a pass therefore calls."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_quant.modules.experts import expert_layers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Routing:
    """Experts of one layer, and how many of them each token goes to.

    Args:
        experts: Number of experts.
        chosen: Experts that each token goes to, at most all.
    """

    experts: int
    chosen: int

    def calls(self, rows: int) -> float:
        """Mean number of experts that get a token of `rows`, where tokens choose independently and none is preferred.

        One token calls `chosen` experts, and many tokens call all.
        """
        return self.experts * (1 - (1 - self.chosen / self.experts) ** rows)

    def rows_of_call(self, rows: int) -> int:
        """Tokens that each expert that is called gets of `rows`, on average."""
        return max(1, round(rows * self.chosen / self.calls(rows)))


def routings(model: Any) -> dict[str, Routing]:
    """The routing of each layer of opened experts, by the name of the module that holds them.

    What its router hands to experts is seen in a pass of the same model without memory for weights.

    Args:
        model: Opened, float or quantized, on any device. Experts that such a pass does not come to are taken to get
            every token, with a warning.
    """
    found = {name: module.experts for name, module in expert_layers(model)}
    if not found:
        return {}
    chosen: dict[str, int] = {}
    try:
        _observe(model, found, chosen)
    except Exception as error:  # code of others, which may ask for numbers that are not there
        logger.debug("the pass without numbers ended: %s", error)
    unknown = [name for name in found if name not in chosen]
    if unknown:
        logger.warning(
            "how many experts a token goes to is not known of %s (%d of %d layers): predicted times are those of all "
            "experts for every token",
            unknown[0],
            len(unknown),
            len(found),
        )
    return {name: Routing(count, min(count, chosen.get(name, count))) for name, count in found.items()}


def routing_of(name: str, routed: dict[str, Routing]) -> Routing | None:
    """The routing that a linear with this name is called by; None where it gets every token."""
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        if parent in routed:
            return routed[parent]
    return None


def _observe(model: Any, names: dict[str, int], chosen: dict[str, int]) -> None:
    config = copy.deepcopy(model.config)
    # Others look into masks to choose a kernel.
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]), FakeTensorMode(), torch.device("cpu"), torch.no_grad():
        empty = type(model)(config).eval()
        for name in names:
            module: nn.Module = empty.get_submodule(name)
            module.forward = _watching(name, chosen)
        ids = torch.zeros(1, 2, dtype=torch.long)
        encoded = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
        empty(input_ids=ids, **encoded)


def _watching(name: str, chosen: dict[str, int]) -> Callable[..., torch.Tensor]:
    def forward(hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        chosen[name] = top_k_index.shape[-1]
        return hidden_states

    return forward
