"""How much a batch counts in a step of accumulated batches, as the Trainer counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def loss_share(trainer: Any, inputs: Mapping[str, Any], num_items_in_batch: Any) -> Any:
    """What a mean over a batch is to be multiplied with, so that a step has the mean over all of its batches.

    Args:
        trainer: Divides a loss by the number of batches in `training_step`, unless the loss is scaled by itself.
        inputs: Tensors of the batch by name, labels among them.
        num_items_in_batch: Labels of all batches of the step, as ``compute_loss`` is given it.
    """
    counts = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    is_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if is_scaled is None:
        is_scaled = trainer.compute_loss_func is not None or (counts and num_items_in_batch is not None)
    if not is_scaled:
        return 1.0
    if num_items_in_batch is None or not counts or inputs.get("labels") is None:
        return 1.0 / trainer.current_gradient_accumulation_steps
    share = _items(inputs, trainer._loss_shifts_labels) / num_items_in_batch
    if trainer.args.average_tokens_across_devices:  # these are of all devices, whose gradients are averaged
        share = share * (trainer.accelerator.num_processes if trainer.args.n_gpu <= 1 else trainer.args.n_gpu)
    return share


def _items(inputs: Mapping[str, Any], shifts: bool) -> Any:
    labels = inputs.get("shift_labels")
    if labels is None:
        labels = inputs["labels"][..., 1:] if shifts else inputs["labels"]
    return labels.ne(-100).sum()
