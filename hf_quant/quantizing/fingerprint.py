"""What the result of a calibrated run depends on, so that progress is never gone on from with anything else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import FORMAT_VERSION
from hf_quant.config.recipe import Recipe
from hf_quant.quantizing.resolve import Resolution

_IRRELEVANT = ("_name_or_path", "architectures", "quantization_config", "transformers_version")
"""What a model's config says beside what the model computes."""

_RUN = 3
"""To be raised whenever the same recipe gives other numbers, or a run hands on other tensors."""


def fingerprint(model: Any, resolution: Resolution, recipe: Recipe | None, calibration: Calibration) -> dict[str, str]:
    """What the result of a run depends on, by name."""
    plan = json.dumps(resolution.plan.to_dict(), sort_keys=True)
    steps = json.dumps(None if recipe is None else recipe.to_dict(), sort_keys=True)
    return {
        "model": weights_fingerprint(model),
        "plan": hashlib.sha256(plan.encode()).hexdigest(),
        "recipe": steps,
        "data": calibration.fingerprint(model.config),
        "version": f"format {FORMAT_VERSION}, run {_RUN}, torch {torch.__version__}",
    }


def weights_fingerprint(model: Any) -> str:
    """SHA-256, in hexadecimal, of a model in memory: its tensors, and what its config says of what it computes."""
    weights = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _IRRELEVANT}
    weights.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return weights.hexdigest()
