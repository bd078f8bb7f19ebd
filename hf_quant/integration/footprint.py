"""The memory that a quantized model takes, for those who ask Transformers."""

from __future__ import annotations

from typing import Any

from hf_quant.evaluation.memory import weight_bytes


def get_memory_footprint(model: Any, return_buffers: bool = True) -> int:
    """Bytes of memory that a quantized model takes: codes, scales and kernels' layouts, not the floats they stand for.

    Args:
        model: Quantized.
        return_buffers: Count buffers, too.
    """
    return weight_bytes(model, return_buffers)
