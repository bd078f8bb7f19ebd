"""Whether two models answer the same question, in the same tokens and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.tasks.base import Feature

_PROBES = (
    "The quick brown fox doesn't jump, it SLEEPS: 1,234.50 (maybe)!",
    "naïve Zürich, 北京 — Ωmega 😀\n\n  indented\ttext",
)
"""Texts on which tokenizers with one vocabulary and other rules differ: case, accents, spaces, digits."""


def require_comparable(reference: Any, quantized: Any, has_labels: bool) -> None:
    """Refuse two models whose outputs do not mean the same, by their configs.

    Args:
        reference: Config of the reference.
        quantized: Config of the quantized model.
        has_labels: Whether the task asks for classes that the configs name.

    Raises:
        EvaluationError: Their vocabularies, or the numbers of their classes, differ.
    """
    sizes = [config.get_text_config().vocab_size for config in (reference, quantized)]
    if sizes[0] != sizes[1]:
        raise EvaluationError(
            f"the reference knows {sizes[0]} tokens, the quantized model {sizes[1]}: compare models that were made "
            "from the same checkpoint"
        )
    if has_labels:
        _require_same_classes(*(_classes(config) for config in (reference, quantized)))


def _classes(config: Any) -> dict[int, str]:
    return {int(number): str(name) for number, name in config.id2label.items()}


def _require_same_classes(first: dict[int, str], second: dict[int, str]) -> None:
    for number in sorted(first | second):
        names = [repr(classes[number]) if number in classes else "missing" for classes in (first, second)]
        if names[0] != names[1]:
            raise EvaluationError(
                f"the models number their labels differently: class {number} is {names[0]} in the reference and "
                f"{names[1]} in the quantized model. Make id2label in both config.json the same, in the order that "
                "the heads were trained in, or compare models that were made from the same checkpoint"
            )


def require_same_tokenizer(reference: Any, quantized: Any) -> None:
    """Refuse two tokenizers that do not cut a text into the same tokens.

    Args:
        reference: Tokenizer beside the reference.
        quantized: Tokenizer beside the quantized model.

    Raises:
        EvaluationError: The tokenizers differ in their vocabularies, or in how they cut texts.
    """
    first, second = reference.get_vocab(), quantized.get_vocab()
    if first != second:
        other = next(token for token in (*first, *second) if first.get(token) != second.get(token))
        difference = f"{other!r} is token {first.get(other)} of the first and {second.get(other)} of the second"
    else:
        cut = [[tokenizer(text)["input_ids"] for text in _PROBES] for tokenizer in (reference, quantized)]
        if cut[0] == cut[1]:
            return
        text, one, two = next(each for each in zip(_PROBES, *cut, strict=True) if each[1] != each[2])
        difference = f"{text!r} becomes {one} and {two}"
    raise EvaluationError(
        f"reference and quantized model have different tokenizers: {difference}. Give the reference that the quantized "
        "model was made from, or, if one of them only lies beside the wrong files, pass tokenizer=..., or "
        "--tokenizer DIRECTORY"
    )


def require_known_tokens(features: Sequence[Feature], facts: ModelFacts) -> None:
    """Refuse features with tokens that the models have no embedding for.

    Raises:
        EvaluationError: A token id is beyond the vocabulary: the tokenizer is not that of the models.
    """
    for feature in features:
        highest = max(max(sequence["input_ids"]) for sequence in feature.sequences)
        if highest >= facts.vocabulary:
            raise EvaluationError(
                f"the tokenizer gives token {highest} for example {feature.example}, the models know "
                f"{facts.vocabulary}: pass the models' own tokenizer with tokenizer=... (--tokenizer DIRECTORY)"
            )
