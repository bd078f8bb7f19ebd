"""How many tokens a model reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from transformers import AutoModel

_LIMITS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
"""Settings that configs of Transformers keep the number of positions in; the first that a config has counts."""


def most_tokens(model: Any) -> int | None:
    """Most tokens of a sequence that a model reads; None where it has no limit.

    That is the number of positions in its config, but for models whose positions start after the number of the padding
    token, as RoBERTa's do: the first rows of their position embedding belong to no token.

    Args:
        model: Transformers model, or its config, of which the model is made without memory.
    """
    config = getattr(model, "config", model)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = next((found for name in _LIMITS if (found := getattr(text, name, None))), None)
    if limit is None:
        return None
    if config is model:
        if getattr(text, "pad_token_id", None) is None or type(config) not in AutoModel._model_mapping:
            return int(limit)
        try:
            with torch.device("meta"):
                model = AutoModel.from_config(config)
        except Exception:  # whatever models raise of a config that was made for a part of them
            return int(limit)
    words = {id(getattr(each, "weight", None)) for each in _word_embeddings(model)}
    for module in model.modules():
        weight, unused = getattr(module, "weight", None), getattr(module, "padding_idx", None)
        if unused is not None and weight is not None and id(weight) not in words and len(weight) == limit:
            return int(limit) - int(unused) - 1
    return int(limit)


def _word_embeddings(model: Any) -> list[Any]:
    # Encoder-decoders may have one for each stack.
    found = []
    for stack in (model, *(getattr(model, name, lambda: None)() for name in ("get_encoder", "get_decoder"))):
        with suppress(AttributeError, NotImplementedError):  # it reads no tokens
            found.append(stack.get_input_embeddings())
    return found
