"""The way back from an extended method to the one of Transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

ORIGINAL = "hf_quant_original"
"""Attribute of an extended method: the method of Transformers."""


def original_method(name: str) -> Callable[..., Any]:
    """The method `name` of ``PreTrainedModel`` as Transformers wrote it."""
    method = getattr(PreTrainedModel, name)
    return getattr(method, ORIGINAL, method)
