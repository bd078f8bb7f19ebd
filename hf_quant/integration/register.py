"""Making Transformers know the method."""

from __future__ import annotations

import torch
from transformers.quantizers import auto
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)

from hf_quant.integration import extend, foreign
from hf_quant.integration.quantizer import HfQuantQuantizer
from hf_quant.modules.tensor import rebuilt_tensor
from hf_quant.modules.weight import rebuilt_weight
from hf_quant.quantizing.config import QUANT_METHOD, HfQuantConfig


def register() -> None:
    """Register config and quantizer; a second call, or a reload of the package, replaces the first."""
    if AUTO_QUANTIZATION_CONFIG_MAPPING.pop(QUANT_METHOD, None) is not None:
        AUTO_QUANTIZER_MAPPING.pop(QUANT_METHOD, None)
    register_quantization_config(QUANT_METHOD)(HfQuantConfig)
    register_quantizer(QUANT_METHOD)(HfQuantQuantizer)
    # Types of configs that may be given beside the one of a quantized checkpoint, as qat=True is.
    known = getattr(auto, "LOADING_ATTRIBUTES_CONFIG_TYPES", ())
    if HfQuantConfig not in known:
        auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*known, HfQuantConfig)
    extend.install()
    foreign.install()
    # Of a saved state dict: they check what they are given.
    torch.serialization.add_safe_globals([rebuilt_tensor, rebuilt_weight])
