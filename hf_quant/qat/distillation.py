"""What a model in training takes from a teacher (Hinton et al., arXiv:1503.02531): its logits, its hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor, nn

from hf_quant.errors import ConfigError


@dataclass(frozen=True)
class Distillation:
    """What a student learns from: a weighted sum of the loss on labels and of two losses against a teacher.

    Args:
        labels: Weight of the loss on labels, which the Trainer has anyway.
        logits: Weight of the loss on the teacher's outputs (`outputs_loss`).
        hidden: Weight of the loss on the teacher's hidden states (`hidden_loss`).
        temperature: Number above 0 that logits of classes are divided by before the softmax.
        int8_teacher: Whether to quantize the teacher to INT8, for a quarter of its memory.

    Raises:
        ConfigError: A number is negative or not finite, the temperature 0, or nothing is taken from the teacher.
    """

    labels: float = 1.0
    logits: float = 1.0
    hidden: float = 0.0
    temperature: float = 2.0
    int8_teacher: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "int8_teacher":
                if not isinstance(value, bool):
                    raise ConfigError(f"int8_teacher is True or False, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"{field.name} must be a number from 0 on, not {value!r}")
        if self.temperature == 0 or self.logits == self.hidden == 0:
            raise ConfigError("temperature, and one of logits and hidden, must be more than 0")


def kept_positions(
    logits: Tensor, labels: Tensor | None, mask: Tensor | None, shifts: bool
) -> tuple[slice | None, Tensor]:
    """Positions whose logits enter the loss against the teacher: those that the loss on labels counts.

    Args:
        logits: Logits ``[batch, ..., classes]``.
        labels: Integers ``[batch, ...]`` with -100 where there is none, or of another shape, which says nothing; None.
        mask: Attention mask ``[batch, tokens]``, for logits of tokens without labels.
        shifts: Whether logits of a position are those of the next label, as in a causal model.

    Returns:
        Slice of the second dimension to take, None for all of it, and bool of the shape of what is left.
    """
    if labels is not None and labels.ndim > 1 and labels.shape == logits.shape[:-1]:
        return (slice(None, -1), labels[:, 1:] != -100) if shifts else (None, labels != -100)
    if mask is not None and mask.shape == logits.shape[:-1]:
        return None, mask.bool()
    return None, logits.new_ones(logits.shape[:-1]).bool()


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over positions, in nats.

    The factor keeps gradients of the size that they have at ``T = 1``.

    Args:
        student: Logits of the student, ``[positions, classes]``.
        teacher: Logits of the teacher, ``[positions, classes]``.
        temperature: Number ``T`` above 0 that logits are divided by.
    """
    student, teacher = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    divergence = nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / max(student.shape[0], 1)


def several_labels_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(p || q)``, sum over labels, mean over rows, in nats; each label is there or not, on its own.

    ``p = sigmoid(teacher / T)`` and ``q = sigmoid(student / T)``, so that
    ``KL(p || q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q))``.

    Args:
        student: Logits of the student, ``[rows, labels]``.
        teacher: Logits of the teacher, ``[rows, labels]``.
        temperature: Number ``T`` above 0 that logits are divided by.
    """
    student, teacher = (logits.float() / temperature for logits in (student, teacher))
    log_sigmoid = nn.functional.logsigmoid
    there = teacher.sigmoid() * (log_sigmoid(teacher) - log_sigmoid(student))
    absent = (-teacher).sigmoid() * (log_sigmoid(-teacher) - log_sigmoid(-student))
    return (there + absent).sum() * temperature**2 / max(student.shape[0], 1)


def numbers_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``(student - teacher)^2``, mean over rows and outputs, for outputs that are numbers and no classes.

    Args:
        student: Outputs of the student, ``[rows, outputs]``.
        teacher: Outputs of the teacher, ``[rows, outputs]``.
    """
    return (student.float() - teacher.float()).square().sum() / max(student.numel(), 1)


def outputs_loss(student: Tensor, teacher: Tensor, temperature: float, problem: str | None) -> Tensor:
    """`numbers_loss` of a regression or a single output, `several_labels_loss` of several labels, else `logits_loss`.

    Args:
        student: Outputs of the student, ``[positions, outputs]``: logits, or the numbers of a regression.
        teacher: Outputs of the teacher, ``[positions, outputs]``.
        temperature: Number above 0 that logits are divided by; a regression has none.
        problem: Kind of the task, ``problem_type`` of a Transformers config.
    """
    if problem == "regression" or student.shape[-1] == 1:  # the softmax of one logit is 1, whatever it is
        return numbers_loss(student, teacher)
    if problem == "multi_label_classification":
        return several_labels_loss(student, teacher, temperature)
    return logits_loss(student, teacher, temperature)


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Squared difference of hidden states relative to the mean square of the teacher's, mean over layers.

    Args:
        student: Hidden states of the student, ``[batch, tokens, width]`` for each layer.
        teacher: Hidden states of the teacher, ``[batch, tokens, width]`` for each layer.
        mask: Tokens that count, bool ``[batch, tokens]``; None for all.
    """
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        if mask is not None:
            ours, theirs = ours[mask], theirs[mask]
        theirs = theirs.float()
        losses.append((ours.float() - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12))
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total / len(losses)
