"""Tags of the model card that say that a model is quantized."""

from __future__ import annotations

from typing import Any

_TAGS = ("hf_quant", "quantized")


def tag(model: Any) -> None:
    """Say on the model card that the model is quantized."""
    tags = list(model.model_tags or [])
    model.model_tags = [*tags, *(tag for tag in _TAGS if tag not in tags)]


def untag(model: Any) -> None:
    """Undo `tag`."""
    if model.model_tags:
        model.model_tags = [tag for tag in model.model_tags if tag not in _TAGS] or None
