"""Attention on the native kernel, with the arguments of Transformers' ``sdpa`` function."""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.kernels.native import ops
from hf_quant.kernels.native.structs import FLOAT_DTYPES

assert ops.SCHEMAS  # importing it has defined the op

SDPA_READS = ("position_bias", "cache", "softcap", "output_attentions")
"""Further arguments that change what ``sdpa`` does; it ignores all others, such as the width of a sliding window."""

_HEAD_MULTIPLE = 16

_attention_op = torch.ops.hf_quant.native_attention.default
_no_mask = torch.empty((), dtype=torch.bool, device="cpu")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Exact attention in float32, whatever the dtype, or None where that is not what ``sdpa`` would compute.

    Args:
        module: The attention module; its ``is_causal`` holds where the argument is None.
        query: ``[batch, heads, queries, width]`` on the CPU.
        key: ``[batch, kv_heads, keys, width]``, heads shared in groups.
        value: ``[batch, kv_heads, keys, width]``.
        attention_mask: Boolean, broadcasting to ``[batch, heads, queries, keys]``, or None.
        dropout: Only 0 is covered.
        scaling: Factor of the products; ``width ** -0.5`` where None.
        is_causal: Whether query ``i`` sees keys 0 to ``i`` only, without a mask.
        *args: Further arguments of ``sdpa``; none is covered.
        **kwargs: Further arguments of ``sdpa``; those of `SDPA_READS` are not covered.

    Returns:
        ``[batch, queries, heads, width]``.
    """
    if dropout or args or (kwargs and _is_read(kwargs)) or not _fit(module, query, key, value):
        return None
    if attention_mask is not None and not _is_mask_of(attention_mask, query, key):
        return None
    if scaling is not None and not isinstance(scaling, int | float):
        return None
    if (query.requires_grad or key.requires_grad or value.requires_grad) and torch.is_grad_enabled():
        return None
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # One query at the end of a cache sees everything before it.
    causal = query.shape[2] > 1 and attention_mask is None and bool(is_causal)
    mask = _no_mask if attention_mask is None else attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found: torch.Tensor = _attention_op(query, key, value, mask, scale, causal)
    return found


def _is_read(kwargs: dict[str, Any]) -> bool:
    # False is what callers pass for outputs they do not want.
    return any(kwargs.get(name) is not None and kwargs[name] is not False for name in SDPA_READS)


def _fit(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    if query.device.type != "cpu" or query.dtype not in FLOAT_DTYPES:
        return False
    if not query.dtype == key.dtype == value.dtype or query.ndim != 4 or key.shape != value.shape:
        return False
    batch, heads, _, width = query.shape
    # One query for a whole batch is broadcast by sdpa, and heads are shared as the module says.
    groups = getattr(module, "num_key_value_groups", 1)
    if key.ndim != 4 or batch != key.shape[0] or heads != key.shape[1] * groups:
        return False
    if width % _HEAD_MULTIPLE or width != key.shape[3]:
        return False
    return query.stride(-1) == 1 and key.stride(-1) == 1 and value.stride(-1) == 1


def _is_mask_of(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> bool:
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[3] != key.shape[2]:
        return False
    batch, heads, queries, _ = query.shape
    return mask.shape[0] in (1, batch) and mask.shape[1] in (1, heads) and mask.shape[2] in (1, queries)
