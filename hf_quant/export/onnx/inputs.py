"""Inputs to trace a model with, and which of their sizes vary."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim

from hf_quant.errors import ExportError

_BATCH, _TOKENS, _PAST = 2, 3, 5
"""Sizes that differ from each other and from 1, so that none is taken for another or for a constant."""


@dataclass(frozen=True)
class TracedInputs:
    """What a model is called with while it is traced.

    Args:
        values: Arguments of ``forward`` by name.
        dynamic: For each, the axes that vary, as ``torch.export`` takes them.
        caches: Layers of keys and values among the inputs; 0 where there is no cache.
    """

    values: dict[str, Any]
    dynamic: dict[str, Any]
    caches: int = 0


def traced_inputs(model: Any) -> TracedInputs:
    """Inputs of a text model: with a cache that may be empty where it generates text, else tokens and masks.

    Encoder-decoders get all tokens of both sides, and keep no cache.

    Args:
        model: Quantized model, which is run once where it has a cache.

    Raises:
        ExportError: It takes no tokens, or keeps a cache of another kind than keys and values.
    """
    takes = _taken(model)
    if model.config.is_encoder_decoder or not model.can_generate() or "past_key_values" not in takes:
        return plain_inputs(model)
    return _with_cache(model, takes)


def _taken(model: Any) -> Any:
    takes = inspect.signature(model.forward).parameters
    if "input_ids" not in takes:
        raise ExportError(
            f"{type(model).__name__} reads no token ids: graphs are written of text models. Take another target"
        )
    return takes


def _ids(model: Any, tokens: int) -> torch.Tensor:
    return torch.arange(_BATCH * tokens).view(_BATCH, tokens) % model.config.get_text_config().vocab_size


def _axes(*axes: int) -> dict[int, Any]:
    return dict.fromkeys(axes, Dim.AUTO)


def plain_inputs(model: Any) -> TracedInputs:
    """Inputs without a cache: tokens, those of a decoder too, and masks; see `traced_inputs`."""
    takes = _taken(model)
    ids = _ids(model, _TOKENS)
    values: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in takes and getattr(model.config, "type_vocab_size", 0) > 1:
        values["token_type_ids"] = torch.zeros_like(ids)
    if model.config.is_encoder_decoder:
        values["decoder_input_ids"] = _ids(model, _PAST)
    values = {name: value for name, value in values.items() if name in takes}
    dynamic = {name: _axes(0, 1) for name in values}
    return TracedInputs(values | ({"use_cache": False} if "use_cache" in takes else {}), dynamic)


def _with_cache(model: Any, takes: Any) -> TracedInputs:
    with torch.no_grad():
        cache = model(input_ids=_ids(model, _PAST), use_cache=True).past_key_values
    layers = getattr(cache, "layers", None)
    if not layers or not all(getattr(layer, "keys", None) is not None for layer in layers):
        raise ExportError(
            f"{type(model).__name__} keeps {type(cache).__name__} between tokens, where a graph takes keys and values "
            "of layers: take another target"
        )
    values: dict[str, Any] = {
        "input_ids": _ids(model, _TOKENS),
        "attention_mask": torch.ones(_BATCH, _PAST + _TOKENS, dtype=torch.int64),
    }
    if "position_ids" in takes:
        values["position_ids"] = torch.arange(_PAST, _PAST + _TOKENS).expand(_BATCH, -1).contiguous()
    dynamic: dict[str, Any] = {name: _axes(0, 1) for name in values}
    values["past_key_values"] = cache
    dynamic["past_key_values"] = [_axes(0, 2) for _ in range(2 * len(layers))]
    return TracedInputs(values, dynamic, len(layers))
