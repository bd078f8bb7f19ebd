"""From a training recipe to the Trainer's arguments and the callback."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.errors import ConfigError
from hf_quant.qat.distillation import Distillation
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.workflows.qat_callback import QATCallback

if TYPE_CHECKING:
    from transformers import TrainingArguments

_PARTS = {"eval_steps": 5, "save_steps": 5, "logging_steps": 50}
"""Names of the Trainer's intervals to how often each occurs in a run, unless the recipe gives it in steps."""


def quantization_of(recipe: TrainingRecipe) -> HfQuantConfig:
    """The quantization config of a training recipe."""
    return HfQuantConfig(**recipe.asked())


def callback_of(recipe: TrainingRecipe, teacher: Any = None) -> QATCallback:
    """The callback that trains a model with a recipe's quantization in the loop.

    Args:
        recipe: Training recipe, whose options are checked here.
        teacher: Teacher model, or ``"self"``; None where there is no teacher.

    Raises:
        ConfigError: An option is not valid.
        UnknownName: A choice is not known.
    """
    options = dict(recipe.qat)
    if isinstance(options.get("bits"), dict):
        options["bits"] = {_step(step): bits for step, bits in options["bits"].items()}
    settings = {name: value for name, value in recipe.distillation.items() if name != "teacher"}
    if settings and "teacher" not in recipe.distillation:
        raise ConfigError("distillation needs a teacher: add `teacher: self`, or a directory or repository id")
    return QATCallback(
        quantization_of(recipe),
        **options,
        teacher=teacher,
        distillation=Distillation(**settings) if teacher is not None else None,
    )


def _step(key: Any) -> int:
    """A number of steps that is a key of a dict, which JSON makes a text of."""
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    if not isinstance(key, int) or isinstance(key, bool):
        raise ConfigError(f"bits maps steps to bits, such as {{0: 8, 500: 4}}, and {key!r} is no whole number of steps")
    return key


def steps_of(recipe: TrainingRecipe, examples: int, processes: int = 1) -> int:
    """Number of optimizer steps of a run on `examples` examples, over all its epochs."""
    given = recipe.training
    if given.get("max_steps", -1) > 0:
        return int(given["max_steps"])
    batch = given.get("per_device_train_batch_size", 8) * given.get("gradient_accumulation_steps", 1) * processes
    return max(1, math.ceil(examples / batch) * math.ceil(given.get("num_train_epochs", 3)))


def arguments_of(recipe: TrainingRecipe, folder: Path, steps: int, progress: bool) -> TrainingArguments:
    """The Trainer's arguments for a run of a recipe.

    Args:
        recipe: Training recipe, whose `training` holds arguments.
        folder: Folder for checkpoints.
        steps: Number of optimizer steps of the whole run.
        progress: Show a progress bar.

    Raises:
        ConfigError: Transformers does not take a value.
    """
    from transformers import TrainingArguments  # late: whoever does not train need not wait for it

    often = {name: max(1, steps // parts) for name, parts in _PARTS.items()}
    settings: dict[str, Any] = {
        **often,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": not progress,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        **recipe.training,
    }
    try:
        return TrainingArguments(str(folder), **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Transformers does not take these training arguments: {error}") from error
