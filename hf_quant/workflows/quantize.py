"""`hf_quant.quantize`: a float model in memory becomes a quantized one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_quant.algorithms.rtn import checked_range
from hf_quant.errors import ConfigError, WeightError
from hf_quant.integration.in_memory import become_quantized
from hf_quant.integration.quantizer import DTYPES, require_pretrained
from hf_quant.kernels.openmp import no_threads_left
from hf_quant.opening.open import opened
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import Resolution, resolve, with_closed
from hf_quant.quantizing.solve import quantize_weights


@no_threads_left()
@torch.no_grad()
def quantize(
    model: Any,
    config: HfQuantConfig | str,
    progress: bool = True,
    resume: str | Path | None = None,
    restart: bool = False,
) -> Any:
    """Quantize a Transformers model in place, as ``from_pretrained`` with the same config would.

    Args:
        model: Float model with weights in memory (not offloaded), in float32, bfloat16 or float16.
        config: Config of the quantization, or the name of a preset.
        progress: Show a progress bar.
        resume: Folder to keep the progress of a calibrated run in, and to go on from.
        restart: Throw away what the folder `resume` holds of other work.

    Returns:
        `model`, whose modules were replaced one at a time, so that the memory of each float weight is freed as
        its codes are made. After a calibrated run ``model.hf_quantizer.block_errors`` has the relative error of each
        block's output.

    Raises:
        UnsupportedModel: The model is no Transformers model, or quantized already.
        WeightError: A weight holds NaN or Inf; the model is as it was.
        PlanError: The plan does not fit the model; the model is as it was.
        ConfigError: An algorithm of the recipe or one of its options is unknown, data is needed and there is none, or
            `resume` holds other work; the model is as it was.
        CalibrationError: The data, or what the model makes of it, is not usable; load the model anew.
    """
    config = HfQuantConfig(config) if isinstance(config, str) else config
    if not isinstance(config, HfQuantConfig):
        raise ConfigError(f"quantize takes an HfQuantConfig or a preset's name, not {config!r}")
    require_pretrained(model)
    if model.dtype not in DTYPES:
        raise ConfigError(f"the model is in {model.dtype}; cast it to torch.float32, bfloat16 or float16 first")
    with opened(model) as opening:
        resolution = resolve(model, config)
        _check_weights(model, resolution)
        closed = opening.keep(resolution.plan.modules)
    resolution = with_closed(resolution, model, closed)
    outcome = quantize_weights(model, config, resolution, progress, resume, restart)
    become_quantized(model, config, resolution, outcome)
    return model


def _check_weights(model: Any, resolution: Resolution) -> None:
    # Before anything changes: a failure half-way would leave a model that is neither float nor quantized.
    for name in resolution.plan:
        weight = model.get_submodule(name).weight
        if weight.is_meta:
            raise WeightError(f"{name}.weight is not in memory (offloaded or on meta): load the model whole first")
        checked_range(weight.flatten(), 0, f"{name}.weight")
