"""Size of a checkpoint before there is one: from a config alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_quant.evaluation.file_size import MAX_SHARD, computed_bytes
from hf_quant.modules.swap import share_tied, swap
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import resolve


def estimate_file_bytes(
    model_class: Any,
    config: PreTrainedConfig,
    quantization: HfQuantConfig | str | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard: str = MAX_SHARD,
) -> int:
    """Bytes of the safetensors files that a model of this config would be saved to; it takes no memory to speak of.

    Args:
        model_class: A class of Transformers, such as ``LlamaForCausalLM``.
        config: Of the model.
        quantization: A config or the name of a preset; None for the float model.
        dtype: Of what is float.
        max_shard: As ``max_shard_size`` of ``save_pretrained``.

    Raises:
        PlanError: The plan does not fit the model.
        ConfigError: There is no such preset.
    """
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=dtype)
    if quantization is not None:
        quantization = HfQuantConfig(quantization) if isinstance(quantization, str) else quantization
        resolution = resolve(model, quantization)
        swap(model, resolution.plan, resolution.ties, device="meta")
        share_tied(model, resolution.ties)
    return computed_bytes(model, max_shard)
