"""The float model that a quantized one came from, without its weights: what exporters of Transformers can trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_quant.errors import ExportError
from hf_quant.export.config import configs_in, float_config
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.joined import Counterpart
from hf_quant.modules.opened import opened_modules
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import counterpart, exchange


@torch.no_grad()
def skeleton(model: Any, replace: Callable[[str, QuantizedModule | StoredModule], Counterpart]) -> Any:
    """A model of the same class in float32, with modules of an exporter's own where `model` has quantized ones.

    Nothing of this package is in it: no fused block, no attention of its own. Float tensors are those of `model`, or
    float32 copies; no weight is decoded.

    Args:
        model: Quantized Transformers model on the CPU; not changed.
        replace: Gives, for a module's name and the module, what stands in its place: of the class of the linear or
            embedding that the model derives, too.

    Raises:
        ExportError: The model holds stacked experts, convolutions or recurrent layers that were opened.
    """
    opened = [name for name, _ in opened_modules(model)]
    if opened:
        raise ExportError(
            f"{opened[0]} is a quantized {type(model.get_submodule(opened[0])).__name__}, of which no graph can be "
            f'made: keep it float with modules_to_not_convert=["{opened[0]}"]'
        )
    with torch.device("meta"):
        made = type(model)._from_config(float32_config(model), attn_implementation=_attention(model)).eval()
    replacements: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule | StoredModule):
            replacements[name] = counterpart(made.get_submodule(name), replace(name, module)).eval()
    exchange(made, replacements)
    for name, module in made.named_modules():
        _fill(module, model.get_submodule(name))
    made.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    return made


def _attention(model: Any) -> str:
    return "sdpa" if model._supports_sdpa else "eager"


def float32_config(model: Any) -> Any:
    """A copy of a quantized model's config that says nothing of quantization, in float32."""
    made = float_config(model)
    for each in configs_in(made):
        each.dtype = torch.float32
    return made


def _fill(made: nn.Module, source: nn.Module) -> None:
    """Give a module the tensors that `source` has under the same names, floats in float32."""
    for tensors in (made._parameters, made._buffers):
        for name, tensor in tensors.items():
            if tensor is None or not tensor.is_meta:
                continue
            found = getattr(source, name).detach()
            found = found.to(torch.float32) if found.is_floating_point() else found
            tensors[name] = nn.Parameter(found, requires_grad=False) if tensors is made._parameters else found
