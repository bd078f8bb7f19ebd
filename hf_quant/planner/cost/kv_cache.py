"""Bytes that keys and values of past tokens take."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from hf_quant.errors import ConfigError, UnsupportedModel


def kv_cache_bytes(config: PreTrainedConfig, length: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of a ``DynamicCache`` of keys and values after `length` tokens.

    Each layer holds two tensors ``[batch, key-value heads, kept tokens, head width]``.

    Heads that share keys and values (grouped queries) count once. A layer of full attention keeps all tokens, one with
    a sliding window of ``w`` the last ``w - 1``: the next token is the one more that it sees.

    Args:
        config: Config of a decoder.
        length: Tokens of each sequence that were seen.
        batch: Number of sequences.
        dtype: Dtype of keys and values, the same as of the model's activations.

    Raises:
        ConfigError: `length` or `batch` is no positive integer.
        UnsupportedModel: A layer caches something else than keys and values of heads of one width.
    """
    for name, value in (("length", length), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a positive integer, not {value!r}")
    text: Any = config.get_text_config(decoder=True)
    if getattr(text, "kv_lora_rank", None) is not None or getattr(text, "global_head_dim", None) is not None:
        raise UnsupportedModel(f"{text.model_type} keeps keys and values of several widths, which is not priced here")
    width = 2 * key_value_heads(text) * _head_width(text) * batch * dtype.itemsize
    return sum(width * _kept(layer, length, text) for layer in DynamicCache(config=text).layers)


def _kept(layer: object, length: int, config: Any) -> int:
    # By exact class: layers derived from these keep more besides.
    if type(layer) is DynamicLayer:
        return length
    if type(layer) is DynamicSlidingWindowLayer:
        return int(min(length, layer.sliding_window - 1))  # type: ignore[attr-defined]
    raise UnsupportedModel(
        f"{config.model_type} has layers that keep {type(layer).__name__}, whose size is not known here"
    )


def key_value_heads(config: Any) -> int:
    """Number of key-value heads of a decoder's text config: as many as query heads, or fewer if query heads share."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
