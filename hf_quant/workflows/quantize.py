"""`hf_quant.quantize`: a float model in memory becomes a quantized one."""

from __future__ import annotations

from typing import Any

import torch
from tqdm.auto import tqdm

from hf_quant.algorithms import SOLVERS
from hf_quant.config.plan import Plan
from hf_quant.errors import ConfigError, WeightError
from hf_quant.integration.config import HfQuantConfig
from hf_quant.integration.quantizer import DTYPES, HfQuantQuantizer, finish, require_pretrained
from hf_quant.integration.resolve import Resolution, resolve
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import share_tied, swap


@torch.no_grad()
def quantize(model: Any, config: HfQuantConfig | str, progress: bool = True) -> Any:
    """Quantize a Transformers model in place, as ``from_pretrained`` with the same config would.

    Args:
        model: Float, weights in memory (not offloaded), in float32, bfloat16 or float16.
        config: A config or a preset's name.
        progress: Show a progress bar.

    Returns:
        `model`, whose modules were replaced one at a time, so that the memory of each float weight is freed as
        its codes are made.

    Raises:
        UnsupportedModel: Not a Transformers model, or quantized already.
        WeightError: A weight holds NaN or Inf; the model is as it was.
        PlanError: The plan does not fit the model; the model is as it was.
    """
    config = HfQuantConfig(config) if isinstance(config, str) else config
    if not isinstance(config, HfQuantConfig):
        raise ConfigError(f"quantize takes an HfQuantConfig or a preset's name, not {config!r}")
    require_pretrained(model)
    if model.dtype not in DTYPES:
        raise ConfigError(f"the model is in {model.dtype}; cast it to torch.float32, bfloat16 or float16 first")
    resolution = resolve(model, config)
    _check_weights(model, resolution)
    for name, scheme in tqdm(resolution.plan.modules.items(), desc="Quantizing", disable=not progress):
        module = model.get_submodule(name)
        is_tied = name in resolution.ties
        weight = None if is_tied else module.weight.data
        swap(model, Plan({name: scheme}), resolution.ties)
        _fill(model.get_submodule(name), module, weight, name)
    share_tied(model, resolution.ties)
    quantizer = HfQuantQuantizer(config, pre_quantized=False)
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = quantizer
    quantizer.resolution = resolution
    finish(model, config.resolved(resolution.plan, resolution.kept_float), quantizer)
    model.config._is_quantized = True
    return model


def _check_weights(model: Any, resolution: Resolution) -> None:
    # Before anything changes: a failure half-way would leave a model that is neither float nor quantized.
    for name in resolution.plan:
        weight = model.get_submodule(name).weight
        if weight.is_meta:
            raise WeightError(f"{name}.weight is not in memory (offloaded or on meta): load the model whole first")
        if not bool(torch.isfinite(weight.aminmax().min)) or not bool(torch.isfinite(weight.aminmax().max)):
            raise WeightError(f"{name}.weight holds NaN or Inf: repair it, or list it in modules_to_not_convert")


def _fill(module: Any, source: Any, weight: torch.Tensor | None, name: str) -> None:
    if getattr(source, "bias", None) is not None:
        module.bias = source.bias  # the parameter itself, which another module may share
    if weight is None:
        return
    if isinstance(module, StoredModule):
        module.weight.data.copy_(weight)
        return
    assert isinstance(module, QuantizedModule)
    weight = weight.t() if isinstance(module, QuantizedConv1D) else weight
    solved = SOLVERS["rtn"]().solve(weight, module.spec.scheme.weight, f"{name}.weight")
    for key, tensor in solved.tensors().items():
        getattr(module, key).data = tensor
