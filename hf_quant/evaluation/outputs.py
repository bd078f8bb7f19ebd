"""What tasks take from a model's outputs, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hf_quant.errors import EvaluationError

NAMES = ("reference", "quantized model")


def logits_of(outputs: Any, shape: str, classes: int | None = None) -> Tensor:
    """Logits of a model's output.

    Args:
        outputs: Of a Transformers model.
        shape: What they have to be, such as ``"[texts, classes]"``.
        classes: How many there are, by the model's config; None for any number.

    Raises:
        EvaluationError: There are none, or not of the right rank or size.
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
    """Logits ``[texts, tokens, vocabulary]`` of a language model's output.

    Raises:
        EvaluationError: There are none, or fewer than the vocabulary has tokens.
    """
    logits = logits_of(outputs, "[texts, tokens, vocabulary]")
    if logits.shape[-1] < vocabulary:
        raise EvaluationError(
            f"the model gives {logits.shape[-1]} scores for each token, and its vocabulary has {vocabulary} tokens: "
            "load a model with a language modelling head"
        )
    return logits


def require_finite(is_finite: Sequence[bool], where: str) -> None:
    """Refuse logits that are NaN.

    Args:
        is_finite: Of each model.
        where: What was run.

    Raises:
        EvaluationError: Some were not.
    """
    for name, finite in zip(NAMES, is_finite, strict=True):
        if not finite:
            raise EvaluationError(
                f"the {name} gives NaN or infinite logits for {where}: load it in float32 or bfloat16 rather than "
                "float16, or find the module with hf_quant.inspect(model) and keep it float"
            )
