"""What both models are given: random token ids over a grid of sizes, or the caller's own inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_quant.errors import ConfigError, EvaluationError, UnsupportedModel
from hf_quant.workflows.benchmarking.facts import CAUSAL, ENCODER_DECODER, Facts

_SEED = 0


@dataclass(frozen=True)
class Case:
    """One size of input that both models are timed on; its fields are JSON-ready.

    Args:
        batch: Number of sequences.
        length: Tokens of each sequence.
        new_tokens: Tokens to generate for each sequence, the first included; 0 for a forward pass.
        vocabulary: Number that random token ids lie below; None where the inputs are the caller's.
    """

    batch: int
    length: int
    new_tokens: int
    vocabulary: int | None

    def inputs(self) -> dict[str, Tensor]:
        """Random token ids, the same for every model, and a mask of ones, int64 ``[batch, length]`` each."""
        assert self.vocabulary is not None
        generator = torch.Generator().manual_seed(_SEED)
        ids = torch.randint(0, self.vocabulary, (self.batch, self.length), generator=generator)
        # Without a mask, models look for padding among the ids.
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @property
    def timings(self) -> int:
        """Number of timings in a report that the case gives: 2 with tokens after the first, else 1."""
        return 2 if self.new_tokens > 1 else 1


def grid(facts: Facts, batch_sizes: Sequence[int] | None, lengths: Sequence[int] | None, new_tokens: int) -> list[Case]:
    """Cases of random inputs, one for every batch size and length.

    Raises:
        ConfigError: The model does not read that many tokens.
        UnsupportedModel: No random input can be made for this kind of model.
    """
    if facts.kind == ENCODER_DECODER or facts.vocabulary is None:
        raise UnsupportedModel(
            f"no input can be made up for {facts.model_class}: pass inputs={{...}}, the tensors that its forward takes"
        )
    is_causal = facts.kind == CAUSAL
    batch_sizes = batch_sizes or ((1,) if is_causal else (1, 8))
    made_up = 0 if not is_causal else new_tokens
    longest = None if facts.positions is None else facts.positions - made_up
    if lengths is None:
        wanted = (128,) if is_causal else (32, 128)
        lengths = sorted({min(length, max(1, longest or length)) for length in wanted})
    _check_length(max(lengths), made_up, facts)
    return [Case(batch, length, made_up, facts.vocabulary) for length in lengths for batch in batch_sizes]


def given(facts: Facts, inputs: Mapping[str, Any], new_tokens: int) -> tuple[Case, dict[str, Tensor]]:
    """The case that the caller's own tensors make, and the tensors.

    Raises:
        ConfigError: The inputs are no dict of tensors with a batch dimension each, or there are more tokens than the
            model reads.
        EvaluationError: There are token ids that the model does not know.
    """
    tensors = dict(inputs)
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors.values()):
        kinds = {name: type(value).__name__ for name, value in tensors.items()}
        raise ConfigError(f"inputs are names to tensors [batch, ...], as a model's forward takes them, not {kinds}")
    ids = tensors.get("input_ids")
    first = next(iter(tensors.values())) if ids is None else ids
    if first.numel() == 0:
        raise ConfigError(f"inputs hold no values: their shape is {tuple(first.shape)}")
    generates = facts.kind == CAUSAL and ids is not None
    length = int(first.shape[1]) if first.ndim > 1 else 1
    if ids is not None:
        if facts.vocabulary is not None and not 0 <= int(ids.min()) <= int(ids.max()) < facts.vocabulary:
            raise EvaluationError(
                f"inputs hold token ids from {int(ids.min())} to {int(ids.max())}, but {facts.model_class} knows "
                f"{facts.vocabulary}: tokenize them with the tokenizer of this model"
            )
        _check_length(length, new_tokens if generates else 0, facts)
    return Case(len(first), length, new_tokens if generates else 0, None), tensors


def tokenized(texts: Sequence[str], tokenizer: Any, facts: Facts, new_tokens: int) -> dict[str, Tensor]:
    """Tokenize texts as one batch, padded to the longest and cut to as many tokens as the model reads.

    Raises:
        ConfigError: There are no texts, or something else among them.
        EvaluationError: There is no tokenizer.
    """
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError("inputs are texts that are not empty, a dict of tensors, or None for random token ids")
    if tokenizer is None:
        raise EvaluationError("texts need a tokenizer: save it beside the reference model, or pass tokenizer=")
    is_causal = facts.kind == CAUSAL
    most = None if facts.positions is None else facts.positions - (new_tokens if is_causal else 0)
    options: dict[str, Any] = {} if most is None else {"truncation": True, "max_length": most}
    if len(texts) > 1:
        if tokenizer.pad_token is None:
            raise EvaluationError("several texts are padded to one length: set tokenizer.pad_token, or give one text")
        # Generation goes on from the last token, which must not be padding.
        options |= {"padding": True, **({"padding_side": "left"} if is_causal else {})}
    return dict(tokenizer(list(texts), return_tensors="pt", **options))


def _check_length(length: int, new_tokens: int, facts: Facts) -> None:
    if facts.positions is not None and length + new_tokens > facts.positions:
        more = f" and {new_tokens} new ones" if new_tokens else ""
        raise ConfigError(
            f"{facts.model_class} reads {facts.positions} tokens, fewer than {length}{more}: "
            "give shorter lengths or fewer new tokens"
        )


def check_alike(reference: Facts, quantized: Facts) -> None:
    """Raise EvaluationError unless the models take the same inputs."""
    for name in ("kind", "vocabulary"):
        one, other = getattr(reference, name), getattr(quantized, name)
        if one != other:
            raise EvaluationError(
                f"the models are not comparable: the {name} of the reference ({reference.model_class}) is {one}, that "
                f"of the quantized model ({quantized.model_class}) {other}. Give a model and its quantized version"
            )
