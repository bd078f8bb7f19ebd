"""What tasks take from a model's outputs, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hf_quant.errors import EvaluationError

NAMES = ("reference", "quantized model")


def logits_of(outputs: Any, shape: str, classes: int | None = None) -> Tensor:
    """Logits of a model's output, checked.

    Args:
        outputs: Output of a Transformers model.
        shape: Shape that logits must have, such as ``"[texts, classes]"``.
        classes: Number of classes by the model's config; None for any number.

    Raises:
        EvaluationError: There are no logits, or not of the right rank or size.
    """
    logits = getattr(outputs, "logits", None)
    rank = shape.count(",") + 1
    if logits is None or logits.ndim != rank or (classes is not None and logits.shape[-1] != classes):
        shape += "" if classes is None else f" of {classes} classes"
        found = "none" if logits is None else f"{tuple(logits.shape)}"
        raise EvaluationError(
            f"this task needs logits {shape}, the model gives {found}: load a model with the head for this task"
        )
    return logits


def vocabulary_logits(outputs: Any, vocabulary: int) -> Tensor:
    """Logits of a language model's output, ``[texts, tokens, vocabulary]``, checked.

    Raises:
        EvaluationError: There are no logits, or fewer for each token than the vocabulary has tokens.
    """
    logits = logits_of(outputs, "[texts, tokens, vocabulary]")
    if logits.shape[-1] < vocabulary:
        raise EvaluationError(
            f"the model gives {logits.shape[-1]} scores for each token, and its vocabulary has {vocabulary} tokens: "
            "load a model with a language modelling head"
        )
    return logits


def require_finite(is_finite: Sequence[bool], where: str) -> None:
    """Refuse logits that are not finite.

    Args:
        is_finite: Whether the logits of the reference, and of the quantized model, are finite.
        where: What the models were run on, for the error message.

    Raises:
        EvaluationError: Logits of a model are not finite.
    """
    for name, finite in zip(NAMES, is_finite, strict=True):
        if not finite:
            raise EvaluationError(
                f"the {name} gives NaN or infinite logits for {where}: load it in float32 or bfloat16 rather than "
                "float16, or find the module with hf_quant.inspect(model) and keep it float"
            )
