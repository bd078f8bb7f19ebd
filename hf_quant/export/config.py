"""The config of a model that is exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_quant.modules.stored import StoredModule


def float_config(model: Any) -> Any:
    """A copy of a quantized model's config that says nothing of quantization, and names the class and dtype."""
    config = copy.deepcopy(model.config)
    for each in configs_in(config):
        for name in ("quantization_config", "_is_quantized", "_pre_quantization_dtype"):
            vars(each).pop(name, None)
    config.architectures = [type(model).__name__]
    config.dtype = dtype_of(model)
    return config


def dtype_of(model: Any) -> torch.dtype:
    """Dtype that a model computes in: that of its floats, but for those which are stored in one of their own."""
    stored = {id(module.weight) for module in model.modules() if isinstance(module, StoredModule)}
    floats = (each.dtype for each in model.parameters() if each.is_floating_point() and id(each) not in stored)
    found: torch.dtype = next(floats, model.dtype)
    return found


def configs_in(config: Any) -> Iterator[Any]:
    """A config and all that are inside it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from configs_in(value)
