"""From rows of data to what a Trainer takes, encoded as the task evaluates them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hf_quant.errors import ConfigError, TrainingError
from hf_quant.evaluation.models import ModelFacts
from hf_quant.registry import unknown

if TYPE_CHECKING:  # these import optional packages, which take seconds
    from hf_quant.evaluation.data import Rows
    from hf_quant.evaluation.tasks.base import Task

TRAINABLE = ("text-classification", "causal-lm")
"""Tasks of `hf_quant.evaluation.TASKS` that a model can be trained on from here."""


@dataclass(frozen=True)
class Examples:
    """Encoded examples of one part of the data, as a Trainer takes them.

    Args:
        rows: Examples, each with ``input_ids``, ``attention_mask`` and ``labels``.
        collator: Function that makes a batch of examples.
        metrics: Function from predictions to figures for the curves; None: the loss alone.
    """

    rows: list[dict[str, Any]]
    collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    metrics: Callable[[Any], dict[str, float]] | None


def check_task(name: str) -> None:
    """Raise ConfigError unless a model can be trained on a task."""
    if name not in TRAINABLE:
        raise ConfigError(f"{unknown('task to train on', name, TRAINABLE)}; for others, use QATCallback with a Trainer")


def examples_of(task: Task, rows: Rows, facts: ModelFacts) -> Examples:
    """Encode rows of data as examples to train or evaluate on.

    Raises:
        EvaluationError: The rows lack what the task takes.
        TrainingError: There is nothing to train on, or no token to fill up batches with.
    """
    from transformers import DataCollatorWithPadding

    task = task.fitted(facts)
    features = task.features(rows, facts)
    if task.name == "causal-lm":
        return _windows([feature.sequences[0]["input_ids"] for feature in features], rows.name)
    if facts.tokenizer.pad_token_id is None:
        raise TrainingError(
            "the tokenizer has no token to fill up batches with: set tokenizer.pad_token, and pad_token_id of the "
            "model's config, and save both"
        )
    found = [{**feature.sequences[0], "labels": feature.notes} for feature in features]
    return Examples(found, DataCollatorWithPadding(facts.tokenizer), _FIGURES.get(task.defaults[0]))


def _windows(sequences: list[list[int]], name: str) -> Examples:
    from transformers import default_data_collator

    # What is left at the end of the text is shorter, and would need a token to fill up with.
    longest = max(map(len, sequences))
    whole = [sequence for sequence in sequences if len(sequence) == longest]
    if longest < 2:
        raise TrainingError(f"{name} has too little text to train on")
    rows = [{"input_ids": ids, "attention_mask": [1] * longest, "labels": list(ids)} for ids in whole]
    return Examples(rows, default_data_collator, None)


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((_logits(prediction).argmax(-1) == prediction.label_ids).mean())}


def _f1(prediction: Any) -> dict[str, float]:
    said, right = _logits(prediction) > 0, prediction.label_ids > 0
    return {"f1": float(2 * (said & right).sum() / max(1, said.sum() + right.sum()))}


def _logits(prediction: Any) -> Any:
    return prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions


_FIGURES = {"accuracy": _accuracy, "f1": _f1}
"""Functions for the curves, by the task's first metric."""
