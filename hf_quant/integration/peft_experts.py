"""PEFT's adapters on opened experts: on linears of their own, instead of on the stacked tensors that there were."""

from __future__ import annotations

import functools
from typing import Any

from hf_quant.errors import UnsupportedModel
from hf_quant.modules.experts import expert_layers


def install() -> None:
    """Let PEFT, which has to be there, take opened experts for the linears that they are.

    For some models it turns ``gate_proj``, ``up_proj`` and ``down_proj`` in configs and in saved adapters into stacked
    tensors. Other models are dealt with as before.
    """
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import transformers_weight_conversion as conversion

    convert_config = conversion.convert_peft_config_for_transformers
    convert_state = conversion.convert_peft_adapter_state_dict_for_transformers
    inject_parameters = BaseTuner._inject_parameters

    @functools.wraps(convert_config)
    def own_config(peft_config: Any, model: Any, conversions: Any) -> None:
        if not _is_opened(model):
            return convert_config(peft_config, model, conversions)
        _check_modules(peft_config, model)

    @functools.wraps(convert_state)
    def own_state(model: Any, peft_config: Any, adapter_state_dict: Any, adapter_name: str = "default") -> Any:
        if _is_opened(model):
            return adapter_state_dict
        return convert_state(model, peft_config, adapter_state_dict, adapter_name)

    @functools.wraps(inject_parameters)
    def checked_parameters(tuner: Any, peft_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        _check_parameters(peft_config, model)
        return inject_parameters(tuner, peft_config, model, *args, **kwargs)

    conversion.convert_peft_config_for_transformers = own_config
    conversion.convert_peft_adapter_state_dict_for_transformers = own_state
    BaseTuner._inject_parameters = checked_parameters


def _is_opened(model: Any) -> bool:
    return any(True for _ in expert_layers(model))


def _linears(model: Any) -> str:
    stacks = (stack for _, experts in expert_layers(model) for stack in experts.stacks)
    return ", ".join(dict.fromkeys(part for stack in stacks for part in stack.parts))


def _check_modules(peft_config: Any, model: Any) -> None:
    targets = getattr(peft_config, "target_modules", None) or ()
    names = [name for name, _ in model.named_modules()]
    for target in () if isinstance(targets, str) else targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UnsupportedModel(
                f"target_modules names {target}, which the quantized model has not: experts are linears of their own, "
                f'{_linears(model)}; name these, or take target_modules="all-linear"'
            )


def _check_parameters(peft_config: Any, model: Any) -> None:
    for layer, experts in expert_layers(model):
        for name in (f"{layer}.{stack.name}" for stack in experts.stacks):
            if any(name == target or name.endswith(f".{target}") for target in peft_config.target_parameters):
                raise UnsupportedModel(
                    f"target_parameters names {name}, a stack of experts, which are linears of their own once they are "
                    f"quantized: take target_modules with {_linears(model)}, or call model.dequantize() first"
                )
