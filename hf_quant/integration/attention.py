"""Attention on the native kernels, as one of Transformers' attention implementations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_quant.fusion.blocks import NATIVE
from hf_quant.kernels.native import ops
from hf_quant.kernels.native.library import load
from hf_quant.kernels.native.structs import FLOAT_DTYPES
from hf_quant.modules.swap import quantized_modules

NAME = "hf_quant"
REPLACED = "sdpa"
"""The implementation that it takes the place of, and falls back to; any other is the user's own choice."""

_HEAD_MULTIPLE = 16

_attention_op = torch.ops.hf_quant.native_attention.default
_no_mask = torch.empty((), dtype=torch.bool, device="cpu")


def register() -> None:
    """Make the implementation known; masks are those of ``sdpa``."""
    assert ops.SCHEMAS
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def choose(model: Any) -> None:
    """Let `model`, if it has anything on native kernels, use it where it would use ``sdpa``."""
    is_native = load() is not None and any(module.kernel == NATIVE for _, module in quantized_modules(model))
    if is_native and getattr(model.config, "_attn_implementation", None) == REPLACED:
        model.config._attn_implementation = NAME


def restore(model: Any) -> None:
    """Undo `choose`."""
    if getattr(model.config, "_attn_implementation", None) == NAME:
        model.config._attn_implementation = REPLACED


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Exact attention in float32, whatever the dtype; what it does not cover goes to ``sdpa``.

    Args:
        module: The attention module; its ``is_causal`` holds where the argument is None.
        query: ``[batch, heads, queries, width]`` on the CPU.
        key: ``[batch, kv_heads, keys, width]``, heads shared in groups.
        value: As `key`.
        attention_mask: Boolean, broadcasting to ``[batch, heads, queries, keys]``, or None.
        dropout: Only 0 is covered.
        scaling: Of the products; ``width ** -0.5`` where None.
        is_causal: Whether query ``i`` sees keys 0 to ``i`` only, without a mask.
        **kwargs: As for ``sdpa``.

    Returns:
        ``[batch, queries, heads, width]`` and None.
    """
    if not _covers(query, key, value, attention_mask, dropout, kwargs):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # One query at the end of a cache sees everything before it.
    causal = query.shape[2] > 1 and attention_mask is None and bool(is_causal)
    mask = _no_mask if attention_mask is None else attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attention_op(query, key, value, mask, scale, causal), None


def _covers(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    kwargs: dict[str, Any],
) -> bool:
    if query.device.type != "cpu" or query.dtype not in FLOAT_DTYPES or dropout:
        return False
    if not query.dtype == key.dtype == value.dtype or query.shape[-1] % _HEAD_MULTIPLE or key.shape != value.shape:
        return False
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
        return False
    if any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap")):
        return False
    if query.stride(-1) != 1 or key.stride(-1) != 1 or value.stride(-1) != 1:
        return False
    needs_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    return not (needs_gradient and torch.is_grad_enabled())
