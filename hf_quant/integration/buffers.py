"""Buffers that are in no checkpoint, computed anew once weights look like floats."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, initialization

from hf_quant.modules.base import QuantizedModule


@torch.no_grad()
@initialization.guard_torch_init_functions()
def restore_buffers(model: Any) -> None:
    """Let modules compute their buffers as Transformers does after loading, where they hold quantized weights.

    Some compute them in the dtype of their first weight, which is that of codes while a checkpoint is read.

    Args:
        model: Quantized, with weights assembled; parameters and buffers of checkpoints stay as they are.
    """
    for owner in model.modules():
        if not isinstance(owner, PreTrainedModel) or owner.is_custom_code():
            continue
        for module in _own_modules(owner):
            if module._non_persistent_buffers_set and any(
                isinstance(each, QuantizedModule) for each in module.modules()
            ):
                kept = [*module.parameters(), *(b for n, b in module.named_buffers() if not _is_lost(module, n))]
                for tensor in kept:
                    tensor._is_hf_initialized = True  # type: ignore[attr-defined]
                owner._init_weights(module)


def _is_lost(module: nn.Module, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    return last in module.get_submodule(parent)._non_persistent_buffers_set


def _own_modules(owner: nn.Module) -> list[nn.Module]:
    """Modules of a model that are in no other model inside it, but for quantized ones."""
    found, rest = [], [owner]
    while rest:
        module = rest.pop()
        found.append(module)
        rest += [c for c in module.children() if not isinstance(c, PreTrainedModel | QuantizedModule)]
    return found
