"""An estimate of the memory that activations take at their peak."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.errors import ConfigError
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opens_model
from hf_quant.planner.cost.routing import routings


@opens_model
def activation_bytes(
    model: Any, length: int, batch: int = 1, dtype: torch.dtype = torch.float32, logits: int | None = None
) -> int:
    """Bytes of activations at their peak in a forward pass without gradients; the cache of keys and values not counted.

    The peak lies in a feed-forward block, in experts or at the head, whichever takes more::

        block   = batch * length * (3 * hidden + 4 * widest) * itemsize
        experts = batch * length * (3 * hidden + 2 * chosen * hidden + 4 * widest) * itemsize
        head    = batch * (length * hidden + logits * vocabulary) * itemsize

    In a block the residual stream, its norm and the block's input live beside what its widest linear gives: twice where
    it is gated, and up to four times while an activation function is computed step by step. Fused blocks take less.
    Attention that builds no matrix of scores (sdpa, or this package's) stays below that. Experts are called one after
    the other, each with all tokens at worst; beside them lie their outputs for each token and each of the `chosen`
    experts that it goes to. (A float model that computes all experts at once takes up to half as much again.) It is an
    estimate: allocators round up, and kernels have buffers of their own.

    Args:
        model: A model with linears, on any device, the meta device included.
        length: Tokens of each sequence in one pass: the prompt's, or 1 for each token after it.
        batch: Number of sequences.
        dtype: Dtype of the activations.
        logits: Positions of each sequence that the head computes; None for all. ``generate`` asks for 1.

    Raises:
        ConfigError: `length` or `batch` is no positive integer, or the model has no linears.
    """
    for name, value in (("length", length), ("batch", batch), ("logits", length if logits is None else logits)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a positive integer, not {value!r}")
    outputs: dict[str, list[int]] = {"linear": [], "experts": [], "head": [0]}
    inventory = Inventory.of(model)
    for name, candidate in inventory.candidates.items():
        if candidate.kind not in ("embedding", "filters"):
            kind = "experts" if name in inventory.experts else candidate.kind
            outputs[kind].append(output_width(model.get_submodule(name)))
    if not outputs["linear"] + outputs["experts"]:
        raise ConfigError("the model has no linears: there is nothing to estimate activations from")
    hidden = int(model.config.get_text_config().hidden_size)
    block = length * (3 * hidden + 4 * max(outputs["linear"], default=0))
    if outputs["experts"]:
        chosen = max(routing.chosen for routing in routings(model).values())
        block = max(block, length * ((3 + 2 * chosen) * hidden + 4 * max(outputs["experts"])))
    head = length * hidden + (length if logits is None else logits) * max(outputs["head"])
    return batch * max(block, head) * dtype.itemsize


def output_width(module: nn.Module) -> int:
    """Output channels of a linear or ``Conv1D``."""
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)  # type: ignore[arg-type]
