"""Recipes for training: what to quantize to, how grids are learned, from whom, and the Trainer's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_quant.config.request import Request
from hf_quant.errors import ConfigError
from hf_quant.registry import unknown

QAT_KEYS = (
    "weights",
    "initial",
    "inputs",
    "warmup_steps",
    "observer_steps",
    "freeze_scales_at",
    "bits",
    "scale_learning_rate",
)
"""Options of ``QATCallback``."""

DISTILLATION_KEYS = ("teacher", "labels", "logits", "hidden", "temperature", "int8_teacher")
"""The teacher, and fields of ``Distillation``."""

TRAINING_KEYS: dict[str, type | tuple[type, ...]] = {
    "learning_rate": (int, float),
    "num_train_epochs": (int, float),
    "max_steps": int,
    "per_device_train_batch_size": int,
    "per_device_eval_batch_size": int,
    "gradient_accumulation_steps": int,
    "weight_decay": (int, float),
    "warmup_steps": (int, float),
    "lr_scheduler_type": str,
    "optim": str,
    "max_grad_norm": (int, float),
    "label_smoothing_factor": (int, float),
    "activation_checkpointing": bool,
    "bf16": bool,
    "seed": int,
    "eval_steps": int,
    "save_steps": int,
    "logging_steps": int,
    "dataloader_num_workers": int,
}
"""Arguments of ``TrainingArguments``, and their types. What else it takes is not a recipe's business: folders, devices,
reports."""

_AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")


@dataclass(frozen=True)
class TrainingRecipe(Request):
    """How a model is trained with quantization in the loop: what to quantize it to, and how it learns.

    What to is a `Request`: one of preset, scheme and plan; overrides, rotation, modules_to_not_convert.

    Args:
        qat: Options of `QATCallback`, by the names in `QAT_KEYS`.
        distillation: ``teacher`` (``"self"``, a directory or a repository id) and fields of `Distillation`; empty: no
            teacher.
        training: Arguments of ``TrainingArguments``, by the names in `TRAINING_KEYS`.
        max_length: Most tokens of a text, or of a window of causal-lm; None: what the task takes.

    Raises:
        ConfigError: Unknown keys (the nearest valid one is named), or values of the wrong type.
    """

    qat: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None

    kind = "training recipe"
    trains = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()
        for key, known in (
            ("qat", QAT_KEYS),
            ("distillation", DISTILLATION_KEYS),
            ("training", tuple(TRAINING_KEYS)),
        ):
            values = getattr(self, key)
            if not isinstance(values, Mapping | None):
                raise ConfigError(f"{key} of a training recipe is written as keys and values, not as {values!r}")
            values = dict(values or {})
            for name in values:
                if name not in known:
                    raise ConfigError(unknown(f"{key} key", name, known))
            object.__setattr__(self, key, values)
        if self.distillation and not isinstance(self.distillation.get("teacher", "self"), str):
            raise ConfigError(
                f'teacher is "self", a directory or a repository id, not {self.distillation["teacher"]!r}'
            )
        for name, value in self.training.items():
            _check(name, value)
        if self.max_length is not None and not (_is_a(self.max_length, int) and self.max_length > 0):
            raise ConfigError(f"max_length is a positive whole number, not {self.max_length!r}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values; inverse of `from_dict`."""
        values = super().to_dict()
        for key in ("qat", "distillation", "training"):
            if getattr(self, key):
                values[key] = dict(getattr(self, key))
        if self.max_length is not None:
            values["max_length"] = self.max_length
        return values


def _check(name: str, value: Any) -> None:
    kinds = TRAINING_KEYS[name]
    if not _is_a(value, kinds):
        hint = "; YAML takes 2e-5 for a text: write 2.0e-5" if isinstance(value, str) and kinds is not str else ""
        raise ConfigError(f"{name} of training is {value!r}, which is of the wrong type{hint}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and value < (-1 if name == "max_steps" else 0):
        raise ConfigError(f"{name} of training is {value!r}, and cannot be negative")
    if name in _AT_LEAST_ONE and value < 1:
        raise ConfigError(f"{name} of training is {value!r}: it must be at least 1")


def _is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
