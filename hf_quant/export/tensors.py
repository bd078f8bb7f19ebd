"""The tensors of a quantized model, as a checkpoint of this package holds them."""

from __future__ import annotations

import re
from typing import Any

import torch

from hf_quant.modules.state import stored_state


def saved_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every tensor once, under the name that ``save_pretrained`` writes: weights as codes, scales and zero points.

    Args:
        model: Quantized Transformers model, in memory; not changed.
    """
    state = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    again = {
        target
        for target, source in tied.items()
        if target in state and source in state and state[target] is not None and _is_one(state[target], state[source])
    }
    unsaved = getattr(model, "_keys_to_ignore_on_save", None) or ()
    kept = {
        name: tensor
        for name, tensor in state.items()
        if name not in again and not any(re.search(pattern, name) for pattern in unsaved)
    }
    return {name: tensor for name, tensor in stored_state(model, kept).items() if isinstance(tensor, torch.Tensor)}


def _is_one(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor is other or (tensor.shape == other.shape and tensor.data_ptr() == other.data_ptr())
