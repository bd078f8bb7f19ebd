"""The last step of quantizing a model that was in memory as floats: Transformers takes it for a quantized one."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_quant.integration.quantizer import HfQuantQuantizer, finish
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import Resolution
from hf_quant.quantizing.solve import Outcome


def become_quantized(model: Any, config: HfQuantConfig, resolution: Resolution, outcome: Outcome) -> None:
    """Mark `model`, whose modules hold codes already, as ``from_pretrained`` would, and lay its weights out.

    Args:
        model: Changed in place.
        config: What to quantize to, as the user said it.
        resolution: Schemes and ties that the config means for the model.
        outcome: What a run with data leaves beside the codes; empty without.

    Raises:
        CheckpointError: A tensor holds values that no quantizer writes.
    """
    quantizer = HfQuantQuantizer(config, pre_quantized=False)
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = quantizer
    quantizer.resolution, quantizer.block_errors = resolution, outcome.block_errors
    quantizer.starved_experts = outcome.starved_experts
    finish(model, config.resolved(resolution.plan, resolution.kept_float, outcome.fingerprint), quantizer)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._is_quantized = True  # as from_pretrained does: code of Jamba and others reads it
