"""The config of a model that is exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig


def float_config(model: Any) -> Any:
    """A copy of a quantized model's config that says nothing of quantization, and names the class and dtype."""
    config = copy.deepcopy(model.config)
    for each in configs_in(config):
        for name in ("quantization_config", "_is_quantized", "_pre_quantization_dtype"):
            vars(each).pop(name, None)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    return config


def configs_in(config: Any) -> Iterator[Any]:
    """A config and all that are inside it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from configs_in(value)
