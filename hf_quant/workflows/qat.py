"""From a float Transformers model to one that trains with quantization in the loop, and on to a quantized one."""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.integration.in_memory import become_quantized
from hf_quant.integration.quantizer import DTYPES, require_pretrained
from hf_quant.kernels.openmp import no_threads_left
from hf_quant.opening.open import opened
from hf_quant.qat.convert import convert as convert_modules
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import resolve
from hf_quant.quantizing.solve import Outcome
from hf_quant.training import trainer
from hf_quant.training.adapted import Adapters, as_adapted, check_options, forget_adapters
from hf_quant.training.prepared import ATTRIBUTE, begin_training, check_config, has_static_inputs, prepared

UNOBSERVED = (
    "static inputs take their ranges from what is observed in training: give QATCallback observer_steps of at least 1, "
    "or quantize inputs dynamically"
)
"""Said where they would have none."""


def prepare(model: Any, config: HfQuantConfig | str, options: QATOptions | None = None, observes: bool = True) -> Any:
    """Let a float model compute, in training, with the numbers it will be quantized to; in place.

    Args:
        model: Float, weights in memory. Its parameters stay the same objects, but for tensors of stacked experts, whose
            parts become parameters in the same memory; learned scales and offsets are added.
        config: A config or a preset's name. Static inputs take their range from observing, not from calibration data.
        options: How grids are found; None for the defaults.
        observes: Whether training is going to observe static inputs.

    Returns:
        `model`. In evaluation, without gradients, it computes as `convert` will make it.

    Raises:
        UnsupportedModel: Not a Transformers model, quantized or prepared already.
        ConfigError: All parameters are frozen, the config has a recipe or calibration data, or static inputs that
            nothing will observe.
        PlanError: The plan does not fit the model, or quantizes nothing; the model is as it was.
        WeightError: A weight holds NaN or Inf; the model is as it was.
    """
    config = HfQuantConfig(config) if isinstance(config, str) else config
    if not isinstance(config, HfQuantConfig):
        raise ConfigError(f"training takes an HfQuantConfig or a preset's name, not {config!r}")
    adapted = as_adapted(model)
    if adapted is None and getattr(model, "peft_config", None):
        raise UnsupportedModel("adapters that add_adapter made are not rounded in training: use peft.get_peft_model")
    require_pretrained(model if adapted is None else adapted.get_base_model())
    if prepared(model) is not None:
        raise UnsupportedModel(
            "the model is prepared for quantization-aware training already: leave the config out, QATCallback(), to "
            "train it on, or hf_quant.convert(model) before another run"
        )
    if model.dtype not in DTYPES:
        raise ConfigError(f"the model is in {model.dtype}; cast it to torch.float32, bfloat16 or float16 first")
    check_config(config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("all parameters are frozen, so there is nothing to train: model.requires_grad_(True)")
    if adapted is None:
        with opened(model) as opening:
            resolution = resolve(model, config)
            if not observes and has_static_inputs(resolution):
                raise ConfigError(UNOBSERVED)
            begin_training(model, config, resolution, options)
            opening.keep(resolution.plan.modules)
    else:
        _begin_adapted(Adapters(adapted), config, options)
    trainer.install()
    return model


def _begin_adapted(adapters: Adapters, config: HfQuantConfig, options: QATOptions | None) -> None:
    base = adapters.base
    adapters.take_out()
    try:
        with opened(base) as opening:
            resolution = resolve(base, config)
            check_options(config, resolution, options)
            begin_training(base, config, resolution, options)
            opening.keep(resolution.plan.modules)
    finally:
        adapters.put_back()


@no_threads_left()
@torch.no_grad()
def convert(model: Any) -> Any:
    """Turn a model that was trained with quantization in the loop into a quantized one, in place.

    Args:
        model: Model that `QATCallback` or `prepare` has trained or prepared.

    Returns:
        `model`, quantized as ``from_pretrained`` with the same config would, with the weights and grids that were
        trained. Its modules compute, bit for bit, what those of the prepared model did in evaluation. Of a model with
        PEFT's adapters, the base model, into which these are merged.

    Raises:
        UnsupportedModel: The model was not prepared, or is converted already.
        TrainingError: A learned scale is not one (`check_grids`); the model is as it was.
        CalibrationError: A static input was never observed; the model is as it was.
        WeightError: A weight holds NaN or Inf; the model is as it was.
    """
    found = prepared(model)
    if found is None or not any(True for _ in fake_quantized_modules(model)):
        raise UnsupportedModel(
            "convert takes a model in quantization-aware training, which this one is not: train it with "
            "Trainer(model, args, callbacks=[hf_quant.QATCallback(...)]), or hf_quant.quantize(model, ...) right away"
        )
    adapted = as_adapted(model)
    if adapted is not None:
        adapters = Adapters(adapted, in_training=True)
        adapters.merge_float()
        adapters.take_out()
        model = adapters.base
        forget_adapters(model, adapted)
    convert_modules(model, found.resolution.ties)
    delattr(model, ATTRIBUTE)
    become_quantized(model, found.config, found.resolution, Outcome())
    return model
