"""What is kept of a calibrated block, so that an interrupted run goes on with the next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_quant.calibration.blocks import BlockInput
from hf_quant.calibration.resume import Progress
from hf_quant.modules.state import stored_state

_LOSS = "error of the block"
"""Among the tensors of a block that is kept; no parameter is called so."""

_STARVED = "tokens of starved experts"
"""Likewise; JSON as bytes."""


def keep(
    kept: Progress,
    index: int,
    block: nn.Module,
    loss: float,
    starved: Mapping[str, int],
    entries: Sequence[BlockInput],
) -> None:
    """Keep a block that was quantized.

    Args:
        kept: Where to.
        index: Number of the block.
        block: Quantized.
        loss: Relative error of its output.
        starved: Linears of its experts that got too few tokens, to how many these were.
        entries: Inputs of the next block.
    """
    carried = {f"{position:06}": entry.hidden for position, entry in enumerate(entries)}
    references = {f"{position:06}.float": entry.reference for position, entry in enumerate(entries)}
    tensors = {
        **stored_state(block, block.state_dict()),
        _LOSS: torch.tensor(loss).double(),
        _STARVED: torch.tensor(list(json.dumps(dict(starved)).encode()), dtype=torch.uint8),
    }
    kept.save(index, tensors, carried | {name: each for name, each in references.items() if each is not None})


def taken_up(
    kept: Progress, index: int, entries: Sequence[BlockInput]
) -> tuple[dict[str, Tensor], float, dict[str, int]]:
    """The tensors of a block's state, its error and its starved experts; after the last, `entries` are those kept."""
    tensors = dict(kept.load(index))
    loss = float(tensors.pop(_LOSS))
    starved: dict[str, int] = json.loads(tensors.pop(_STARVED).numpy().tobytes())
    if index + 1 == kept.done:
        carried = kept.carried()
        for position, entry in enumerate(entries):
            device = entry.hidden.device
            entry.hidden = carried[f"{position:06}"].to(device)
            if entry.reference is not None:
                entry.reference = carried[f"{position:06}.float"].to(device)
    return tensors, loss, starved
