"""Texts to tokens, none longer than a model reads."""

from __future__ import annotations

from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.tasks.base import Encoded

_FIELDS = ("input_ids", "attention_mask", "token_type_ids")


def encode(texts: tuple[list[str], ...], facts: ModelFacts, max_length: int | None, what: str) -> list[Encoded]:
    """Tokenize texts or pairs of texts, with special tokens.

    Args:
        texts: One list of texts, or two for pairs.
        facts: Facts about the models.
        max_length: Number of tokens that texts are cut to; None to cut nothing.
        what: Name of the texts, for error messages.

    Raises:
        EvaluationError: A text is longer than the model's context and is not to be cut, or has no tokens.
    """
    longest = facts.length(max_length)
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    fields = facts.tokenizer(*texts, verbose=False, **options)
    found = [sequence(fields, index) for index in range(len(texts[0]))]
    for index, each in enumerate(found):
        require_fit(len(each["input_ids"]), longest, f"{what} {index}")
    return found


def sequence(fields: Any, index: int) -> Encoded:
    """The fields of one row of a tokenizer's output that models take."""
    return {name: list(fields[name][index]) for name in _FIELDS if name in fields}


def require_fit(tokens: int, longest: int | None, what: str) -> None:
    """Refuse a text that is empty or longer than the models' context.

    Raises:
        EvaluationError: The text has no tokens, or more than `longest`.
    """
    if tokens == 0:
        raise EvaluationError(f"{what} has no tokens: leave it out of the data")
    if longest is not None and tokens > longest:
        raise EvaluationError(
            f"{what} has {tokens} tokens, the model reads {longest}: cut such texts with "
            f"max_length={longest} (--max-length {longest}), or leave them out"
        )
