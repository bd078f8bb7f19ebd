"""A Transformers model in training with quantization in the loop, and what it is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hf_quant.errors import ConfigError
from hf_quant.modules.swap import quantized_modules, restore_float
from hf_quant.qat.input import StaticInput
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import prepare
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import Resolution

ATTRIBUTE = "_hf_quant_prepared"


@dataclass(frozen=True)
class Prepared:
    """What a model is being trained for.

    Args:
        config: What to quantize to, from the user or from the checkpoint.
        resolution: Schemes and ties that the config means for this model.
    """

    config: HfQuantConfig
    resolution: Resolution


def prepared(model: Any) -> Prepared | None:
    """What a model is trained for; None where there is no quantization in the loop."""
    return getattr(model, ATTRIBUTE, None)


def check_config(config: HfQuantConfig) -> None:
    """Raise ConfigError where `config` asks for what training does not do."""
    if config.recipe is not None or config.calibration is not None:
        raise ConfigError(
            "training takes neither recipe nor calibration: it learns the roundings itself, and observes static inputs "
            "(observer_steps). Give a preset, a scheme or a plan"
        )


def has_static_inputs(resolution: Resolution) -> bool:
    """Whether any module is to have an input with a fixed grid."""
    inputs = [scheme.input for scheme in resolution.plan.modules.values() if scheme is not None]
    return any(input is not None and not input.dynamic for input in inputs)


def begin_training(
    model: Any, config: HfQuantConfig, resolution: Resolution, options: QATOptions | None = None
) -> None:
    """Put quantization into the loop of a float model, in place; `resolution` is of `config` and `model`.

    Raises:
        PlanError: The plan quantizes nothing; the model is as it was.
        WeightError: A weight holds NaN or Inf; the model is as it was.
    """
    prepare(model, resolution.plan, resolution.ties, options)
    setattr(model, ATTRIBUTE, Prepared(config, resolution))


@torch.no_grad()
def go_on_training(model: Any, config: HfQuantConfig, resolution: Resolution) -> None:
    """Make a model on codes one that trains, in place: it starts from the very grids that it was quantized with.

    Args:
        model: Quantized, not laid out for kernels. Masters are what the codes stand for, in the dtype of the model.
        config: What the checkpoint says it was quantized to.
        resolution: Schemes and ties of the checkpoint's modules.
    """
    stored = {
        name: (module.neutral(), module.input_scale, module.input_zero_point)
        for name, module in quantized_modules(model)
    }
    restore_float(model, model.dtype)
    begin_training(model, config, resolution)
    for name, (weight, input_scale, input_zero_point) in stored.items():
        module = model.get_submodule(name)
        if module.sharing[0] is module:
            module.weight_quantizer.start_from(module.scheme.weight, weight["scale"], weight.get("zero_point"))
        if isinstance(module.input_quantizer, StaticInput) and input_scale is not None:
            zero = None if input_zero_point is None else input_zero_point.view(1, 1)
            module.input_quantizer.grid.initialise(module.scheme.input, input_scale.view(1, 1), zero)
