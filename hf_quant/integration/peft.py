"""LoRA on quantized linears: training works as on any linear; merging means quantizing again."""

from __future__ import annotations

import copy
import importlib.util
import logging
from typing import Any

logger = logging.getLogger(__name__)

_installed = False


def install() -> None:
    """Let PEFT, if it is installed, wrap quantized linears in a layer that can merge. Does its work once.

    PEFT has no way to register a layer that survives ``PeftModel.from_pretrained``, so the function that picks the
    layer class is extended; for every other module it behaves as before.
    """
    global _installed
    if _installed or importlib.util.find_spec("peft") is None:
        return
    from peft.tuners.lora.model import LoraModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from hf_quant.errors import UnsupportedModel
    from hf_quant.integration import peft_experts
    from hf_quant.integration.lora import LoraOnQuantized
    from hf_quant.modules.base import QuantizedModule
    from hf_quant.modules.linear import QuantizedLinear

    original = LoraModel._create_new_module

    def create_new_module(lora_config: Any, adapter_name: str, target: Any, **kwargs: Any) -> Any:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if isinstance(base, QuantizedModule) and kwargs.get("parameter_name") is not None:
            raise UnsupportedModel(
                "target_parameters puts an adapter on a float parameter, which a quantized module has none of: use "
                "target_modules, or call model.dequantize() first"
            )
        if not isinstance(base, QuantizedLinear):
            return original(lora_config, adapter_name, target, **kwargs)
        if lora_config.use_dora:
            raise UnsupportedModel(
                "DoRA reads the float weight under the adapter at every step: use plain LoRA on quantized modules, "
                "or call model.dequantize() first"
            )
        # GPT-2's Conv1D is stored like any linear once it is quantized; the user's config is for float ones, too.
        own_config = copy.copy(lora_config)
        own_config.fan_in_fan_out = False
        return LoraOnQuantized(target, adapter_name, config=own_config, **kwargs)

    LoraModel._create_new_module = staticmethod(create_new_module)
    peft_experts.install()
    _installed = True
