"""A teacher beside the model that a Trainer trains."""

from __future__ import annotations

import copy
from typing import Any

import torch

from hf_quant.errors import ConfigError
from hf_quant.integration.adapted import as_adapted
from hf_quant.integration.config import HfQuantConfig
from hf_quant.integration.in_memory import become_quantized
from hf_quant.integration.qat import convert, prepare
from hf_quant.integration.quantizer import require_pretrained
from hf_quant.integration.resolve import resolve
from hf_quant.integration.solve import quantize_weights
from hf_quant.qat.distillation import Distillation, hidden_loss, kept_positions, logits_loss
from hf_quant.qat.options import QATOptions


def make_teacher(teacher: Any, model: Any, settings: Distillation) -> Any:
    """The teacher, frozen, in evaluation, where `model` is.

    Args:
        teacher: A Transformers model, or ``"self"`` for `model` as it is now, float.
        model: That is going to be trained.
        settings: Whether to quantize the teacher, which changes it unless it is ``"self"``.

    Raises:
        ConfigError: It is neither, or of another kind than `model`.
    """
    if isinstance(teacher, str):
        if teacher != "self":
            raise ConfigError(f'teacher is a model or "self", not {teacher!r}')
        teacher = copy.deepcopy(model)
    if not isinstance(teacher, torch.nn.Module) or not hasattr(teacher, "config"):
        raise ConfigError(f'teacher is a Transformers model or "self", not {type(teacher).__name__}')
    if teacher is model:
        raise ConfigError('the teacher is the model that is trained: write teacher="self" to keep a copy of it')
    config: Any = teacher.config
    for size in ("vocab_size", "num_labels"):
        ours, theirs = getattr(model.config, size, None), getattr(config, size, None)
        if ours != theirs:
            raise ConfigError(f"the teacher has {size} {theirs}, the model {ours}: they need the same outputs")
    if settings.hidden and config.num_hidden_layers != model.config.num_hidden_layers:
        raise ConfigError("hidden states are compared layer by layer: hidden=0, or a teacher of as many layers")
    teacher = teacher.to(model.device)
    if settings.int8_teacher and not getattr(teacher, "is_quantized", False):
        _quantize(teacher)
    return teacher.eval().requires_grad_(False)


def _quantize(teacher: Any) -> None:
    if as_adapted(teacher) is not None:
        teacher.requires_grad_(True)
        convert(prepare(teacher, "int8", QATOptions(weights="minmax")))  # merges the adapters
        return
    require_pretrained(teacher)
    config = HfQuantConfig("int8")
    resolution = resolve(teacher, config)
    # One module at a time, so that no second copy of the weights is ever held.
    with torch.no_grad():
        become_quantized(teacher, config, resolution, quantize_weights(teacher, config, resolution, progress=False))


class DistilledLoss:
    """Stands in for ``trainer.compute_loss``: in training, it adds what the teacher says.

    Args:
        trainer: Whose loss it is.
        teacher: From `make_teacher`.
        settings: Weights and temperature.
    """

    def __init__(self, trainer: Any, teacher: Any, settings: Distillation):
        self.trainer, self.teacher, self.settings = trainer, teacher, settings
        self.original = trainer.compute_loss

    def __call__(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As ``Trainer.compute_loss``."""
        if not model.training:
            return self.original(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels, mask = inputs.get("labels"), inputs.get("attention_mask")
        if self.settings.hidden:
            inputs = {**inputs, "output_hidden_states": True}
        asked = {name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        loss, outputs = self.original(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        with torch.no_grad(), self.trainer.accelerator.autocast():
            taught = self.teacher(**asked)
        added = self._taught(outputs, taught, labels, mask, num_items_in_batch)
        loss = self.settings.labels * loss + added
        return (loss, outputs) if return_outputs else loss

    def _taught(self, outputs: Any, taught: Any, labels: Any, mask: Any, num_items_in_batch: Any) -> Any:
        settings = self.settings
        part, keep = kept_positions(outputs.logits, labels, mask, self.trainer._loss_shifts_labels)
        ours, theirs = ((each.logits if part is None else each.logits[:, part])[keep] for each in (outputs, taught))
        loss = settings.logits * logits_loss(ours, theirs, settings.temperature)
        if settings.hidden:
            tokens = None if mask is None else mask.bool()
            loss = loss + settings.hidden * hidden_loss(outputs.hidden_states, taught.hidden_states, tokens)
        if num_items_in_batch is not None and self.trainer.model_accepts_loss_kwargs:
            # The Trainer's own loss is a sum over the items of all accumulated batches, divided by their number.
            loss = loss * keep.sum() / num_items_in_batch
        return loss
