"""Whether two models can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_quant.errors import EvaluationError


def check_tokenizers(reference: Any, quantized: Any, texts: Sequence[str]) -> None:
    """Whether both tokenizers make the same of some texts.

    Raises:
        EvaluationError: They do not.
    """
    if reference is None or quantized is None or reference is quantized:
        return
    fix = "compare a model with the one it was quantized from, or pass tokenizer=... to use one for both"
    first, second = reference.get_vocab(), quantized.get_vocab()
    if first != second:
        differing = sorted(token for token in {*first, *second} if first.get(token) != second.get(token))
        raise EvaluationError(
            f"the models have other tokenizers: {len(differing)} tokens differ, such as {differing[0]!r}, which is "
            f"{first.get(differing[0])} in the reference and {second.get(differing[0])} in the quantized model; {fix}"
        )
    for text in texts:
        if reference(text, verbose=False)["input_ids"] != quantized(text, verbose=False)["input_ids"]:
            raise EvaluationError(f"the models' tokenizers divide {text[:60]!r} differently; {fix}")


def check_vocabularies(reference: Any, quantized: Any) -> None:
    """Whether both models' embeddings have the same rows.

    Raises:
        EvaluationError: They do not.
    """
    sizes = [config.get_text_config().vocab_size for config in (reference, quantized)]
    if sizes[0] != sizes[1]:
        raise EvaluationError(
            f"the reference has a vocabulary of {sizes[0]} tokens and the quantized model one of {sizes[1]}: compare a "
            "model with the one it was quantized from"
        )


def check_labels(reference: Any, quantized: Any) -> None:
    """Whether both configs number the same labels alike.

    Raises:
        EvaluationError: They do not.
    """
    first, second = (
        {int(key): str(value) for key, value in config.id2label.items()} for config in (reference, quantized)
    )
    if first != second:
        differing = next(key for key in sorted({*first, *second}) if first.get(key) != second.get(key))
        raise EvaluationError(
            f"the models' labels differ: {differing} is {first.get(differing)!r} in the reference and "
            f"{second.get(differing)!r} in the quantized model. If the heads are the same, set id2label and label2id "
            "of one config to those of the other; if not, these models cannot be compared"
        )
