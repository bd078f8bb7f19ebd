"""A teacher beside the model that a Trainer trains."""

from __future__ import annotations

import copy
from typing import Any

import torch

from hf_quant.errors import ConfigError
from hf_quant.integration.in_memory import become_quantized
from hf_quant.integration.quantizer import require_pretrained
from hf_quant.opening.open import opened
from hf_quant.qat.distillation import Distillation, hidden_loss, kept_positions, outputs_loss
from hf_quant.qat.options import QATOptions
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.quantizing.resolve import resolve
from hf_quant.quantizing.solve import quantize_weights
from hf_quant.training.adapted import as_adapted
from hf_quant.training.loss_share import loss_share
from hf_quant.workflows.qat import convert, prepare


def make_teacher(teacher: Any, model: Any, settings: Distillation, tokenizer: Any = None) -> Any:
    """The teacher, frozen, in evaluation, where `model` is.

    Args:
        teacher: A Transformers model, or ``"self"`` for `model` as it is now, float.
        model: Student: the model that is going to be trained.
        settings: Whether to quantize the teacher, which changes it unless it is ``"self"``.
        tokenizer: Tokenizer of both, which tells whether what one of two vocabularies has more is padding.

    Raises:
        ConfigError: It is neither, or of another kind than `model`, or has no hidden states to compare with its.
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
    ours, theirs = getattr(model.config, "num_labels", None), getattr(config, "num_labels", None)
    if ours != theirs:
        raise ConfigError(f"the teacher has num_labels {theirs}, the model {ours}: they need the same outputs")
    _check_vocabularies(getattr(config, "vocab_size", None), getattr(model.config, "vocab_size", None), tokenizer)
    if settings.hidden:
        _check_hidden(config, model.config)
    teacher = teacher.to(model.device)
    if settings.int8_teacher and not getattr(teacher, "is_quantized", False):
        _quantize(teacher)
    return teacher.eval().requires_grad_(False)


def _check_vocabularies(theirs: int | None, ours: int | None, tokenizer: Any) -> None:
    if theirs == ours:
        return
    said = f"the teacher has vocab_size {theirs}, the model {ours}"
    if theirs is None or ours is None:
        raise ConfigError(f"{said}: they need the same outputs")
    if not hasattr(tokenizer, "get_vocab"):
        raise ConfigError(
            f"{said}: they need the same tokens. If what one has more is padding, say so by the tokenizer: "
            "Trainer(..., processing_class=tokenizer)"
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= min(theirs, ours):
        raise ConfigError(f"{said}, and the tokenizer gives tokens up to {highest}: take a teacher of the same tokens")


def _check_hidden(theirs: Any, ours: Any) -> None:
    if is_encoder_decoder(ours) or is_encoder_decoder(theirs):
        raise ConfigError("hidden states are compared of models with one stack, not of encoder-decoders: hidden=0")
    if theirs.num_hidden_layers != ours.num_hidden_layers:
        raise ConfigError("hidden states are compared layer by layer: hidden=0, or a teacher of as many layers")
    widths = [getattr(config, "hidden_size", None) for config in (theirs, ours)]
    if widths[0] != widths[1]:
        raise ConfigError(
            f"hidden states of the teacher have {widths[0]} features, those of the model {widths[1]}: hidden=0, or a "
            "teacher of the same hidden_size"
        )


def _quantize(teacher: Any) -> None:
    if as_adapted(teacher) is not None:
        teacher.requires_grad_(True)
        convert(prepare(teacher, "int8", QATOptions(weights="minmax")))  # merges the adapters
        return
    require_pretrained(teacher)
    config = HfQuantConfig("int8")
    with opened(teacher) as opening:
        resolution = resolve(teacher, config)
        opening.keep(resolution.plan.modules)
    # One module at a time, so that no second copy of the weights is ever held.
    with torch.no_grad():
        become_quantized(teacher, config, resolution, quantize_weights(teacher, config, resolution, progress=False))


def is_encoder_decoder(config: Any) -> bool:
    """Whether a model of `config` has two stacks."""
    return bool(getattr(config, "is_encoder_decoder", False))


def with_decoder_inputs(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs`, with what an encoder-decoder makes of labels for its decoder; a teacher is not shown labels.

    Raises:
        ConfigError: `model` does not tell what it makes of them.
    """
    labels = inputs.get("labels")
    if not is_encoder_decoder(model.config) or labels is None or labels.ndim < 2 or labels.is_floating_point():
        return inputs  # labels of whole rows are not decoded
    if any(inputs.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds")):
        return inputs
    if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise ConfigError(
            f"{type(model).__name__} does not tell what its decoder is given for labels, as the teacher's must be: "
            "let the data collator add decoder_input_ids"
        )
    return {**inputs, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=labels)}


class DistilledLoss:
    """Stands in for ``trainer.compute_loss``: in training, it adds what the teacher says.

    Args:
        trainer: Whose loss it is.
        teacher: Float model that is imitated, from `make_teacher`.
        settings: Weights and temperature.
    """

    def __init__(self, trainer: Any, teacher: Any, settings: Distillation):
        self.trainer, self.teacher, self.settings = trainer, teacher, settings
        self.original = trainer.compute_loss

    def __call__(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a batch, with what the teacher adds to it: see ``Trainer.compute_loss``."""
        if not model.training:
            return self.original(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        student = self.trainer.accelerator.unwrap_model(model)
        inputs = with_decoder_inputs(student, inputs)
        # Of the tokens that logits are of.
        mask = inputs.get("decoder_attention_mask" if is_encoder_decoder(student.config) else "attention_mask")
        labels = inputs.get("labels")
        share = loss_share(self.trainer, inputs, num_items_in_batch)
        if self.settings.hidden:
            inputs = {**inputs, "output_hidden_states": True}
        asked = {name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        loss, outputs = self.original(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        with torch.no_grad(), self.trainer.accelerator.autocast():
            taught = self.teacher(**asked)
        added = self._taught(student.config, outputs, taught, labels, mask) * share
        loss = self.settings.labels * loss + added
        return (loss, outputs) if return_outputs else loss

    def _taught(self, config: Any, outputs: Any, taught: Any, labels: Any, mask: Any) -> Any:
        settings = self.settings
        if any(getattr(each, "logits", None) is None for each in (outputs, taught)):
            raise ConfigError(
                f"distillation compares logits, and outputs are {type(outputs).__name__} of the model and "
                f"{type(taught).__name__} of the teacher: take models with logits, or leave the teacher out"
            )
        part, keep = kept_positions(outputs.logits, labels, mask, self.trainer._loss_shifts_labels)
        ours, theirs = ((each.logits if part is None else each.logits[:, part])[keep] for each in (outputs, taught))
        if getattr(config, "vocab_size", None) != getattr(self.teacher.config, "vocab_size", None):
            known = min(ours.shape[-1], theirs.shape[-1])  # padding that one vocabulary has more is no token
            ours, theirs = ours[..., :known], theirs[..., :known]
        # Set by the first loss, where the user has left it open.
        problem = getattr(config, "problem_type", None)
        loss = settings.logits * outputs_loss(ours, theirs, settings.temperature, problem)
        if settings.hidden:
            tokens = None if mask is None else mask.bool()
            loss = loss + settings.hidden * hidden_loss(outputs.hidden_states, taught.hidden_states, tokens)
        return loss
