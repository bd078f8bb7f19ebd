"""Size of a checkpoint before there is one: from a config alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_quant.evaluation.file_size import MAX_SHARD, computed_bytes
from hf_quant.modules.swap import share_tied, swap
from hf_quant.opening.open import Opening
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import resolve


def estimate_file_bytes(
    model_class: Any,
    config: PreTrainedConfig,
    quantization: HfQuantConfig | str | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard: str = MAX_SHARD,
) -> int:
    """Bytes of the safetensors files that a model of a config would be saved to; no memory is used for weights.

    Args:
        model_class: Class of Transformers, such as ``LlamaForCausalLM``.
        config: Config of the model.
        quantization: Config of the quantization or name of a preset; None for the float model.
        dtype: Dtype of parameters that are float.
        max_shard: Largest size of one file, such as ``"50GB"``: ``max_shard_size`` of ``save_pretrained``.

    Raises:
        PlanError: The plan does not fit the model.
        ConfigError: There is no such preset.
    """
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=dtype)
    if quantization is not None:
        quantization = HfQuantConfig(quantization) if isinstance(quantization, str) else quantization
        opening = Opening(model)
        resolution = resolve(model, quantization)
        opening.keep(resolution.plan.modules)
        swap(model, resolution.plan, resolution.ties, device="meta")
        share_tied(model, resolution.ties)
    return computed_bytes(model, max_shard)
