"""Causal language modelling: perplexity in sliding windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import evaluate
import numpy as np
from transformers.modeling_outputs import MaskedLMOutput

from hf_quant.data.bos import adds_bos
from hf_quant.data.chat import chat_text, is_chat
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import vocabulary_logits
from hf_quant.evaluation.perplexity import SEPARATOR
from hf_quant.evaluation.statistics import Counts
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.tokens import Places, merged, token_results
from hf_quant.evaluation.windows import windows

_USUAL_LENGTH = 512
_COLUMNS = ("text", "sentence", "content", "messages")
_FEW = 30


@dataclass(frozen=True)
class CausalLM(Task):
    """Causal language modelling: each token of the texts is scored once, in the first window that reaches it.

    Args:
        text_column: Column of the texts, or of conversations, which the tokenizer's chat template makes texts of; None
            for ``text``, ``sentence``, ``content`` or ``messages``.
        batch_size: Windows in a forward pass, whose logits take 4 bytes times tokens times the size of the vocabulary.
        max_length: Tokens of a window; None for 512, or as many as the model reads if that is less.
        stride: Tokens from one window's start to the next; None for no overlap.
        join: Whether texts are joined by blank lines and read as one, so that an example is a window. False: each text
            is read alone, and is an example.
        bos: Whether each window begins with the tokenizer's ``bos`` token; None: if the tokenizer puts it before texts.
    """

    text_column: str | None = None
    batch_size: int = 1
    stride: int | None = None
    join: bool = True
    bos: bool | None = None

    name = "causal-lm"
    unit = "tokens"
    harm = "rise of the mean negative log-likelihood of a token, in nats"
    defaults = ("perplexity", "bits-per-byte", "accuracy")
    fits = (*defaults, "log-loss")
    call = {"use_cache": False}  # noqa: RUF012

    def fitted(self, facts: ModelFacts) -> CausalLM:
        """The task with `bos` as the tokenizer has it, so that the report says which it was."""
        return self if self.bos is not None else replace(self, bos=adds_bos(facts.tokenizer))

    def metric_names(self, rows: Rows, facts: ModelFacts) -> tuple[str | evaluate.EvaluationModule, ...]:
        """The metrics that are asked for, or the defaults; bits per byte need a fast tokenizer, which has offsets."""
        if self.metrics or facts.tokenizer.is_fast:
            return self.metrics or self.defaults
        return tuple(name for name in self.defaults if name != "bits-per-byte")

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one window each, whose notes say where to score it."""
        texts = _texts(rows, rows.column(self.text_column, _COLUMNS, "text_column"), facts.tokenizer)
        if getattr(facts.config, "is_encoder_decoder", False):
            raise EvaluationError("an encoder-decoder has no perplexity of a text alone: causal-lm is for decoders")
        begin = [facts.tokenizer.bos_token_id] if self.bos else []
        if None in begin:
            raise EvaluationError("the tokenizer has no token that begins a text: leave out bos=True (--bos)")
        length = facts.length(self.max_length if self.max_length is not None else self._length(facts))
        assert length is not None
        found: list[Feature] = []
        for index, text in enumerate([SEPARATOR.join(texts)] if self.join else texts):
            if begin:  # templates of conversations write one, too
                text = text.removeprefix(facts.tokenizer.bos_token)
            found += [
                Feature(len(found) + number if self.join else index, ({"input_ids": begin + ids},), places)
                for number, (ids, places) in enumerate(self._windows(text, facts.tokenizer, length, len(begin)))
            ]
        if not found:
            raise EvaluationError(f"{rows.name} has too little text: perplexity needs at least two tokens")
        return found

    def _length(self, facts: ModelFacts) -> int:
        return min(_USUAL_LENGTH, facts.positions or _USUAL_LENGTH)

    def _windows(self, text: str, tokenizer: Any, length: int, begin: int) -> Iterator[tuple[list[int], Places]]:
        """Token ids of each window, without its ``bos``, and where to score it."""
        # verbose=False: the whole text is longer than the model's context on purpose.
        fields = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
        tokens = np.array(fields["input_ids"], dtype=np.int64)
        ends = _byte_ends(text, fields["offset_mapping"]) if tokenizer.is_fast else None
        for window in windows(len(tokens), length - begin, self.stride, begun=begin > 0):
            start, scored, end = window.start, window.scored, window.end
            positions = range(begin + scored - start - 1, begin + end - start - 1)
            size = None if ends is None else int(ends[end] - ends[scored])
            yield tokens[start:end].tolist(), Places(positions, tokens[scored:end], size)

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Likelihoods, likeliest tokens and divergence at the scored tokens of each window."""
        for outputs in (reference, quantized):
            if isinstance(outputs, MaskedLMOutput):
                raise EvaluationError(
                    "the model sees the tokens that it is asked for, so that its perplexity says nothing: evaluate it "
                    "with the task masked-lm"
                )
        logits = [vocabulary_logits(outputs, facts.vocabulary) for outputs in (reference, quantized)]
        found = token_results(batch, *logits)
        return [
            _with_notes(result, feature.sequences[0]["input_ids"])
            for result, feature in zip(found, batch.features, strict=True)
        ]

    def results(self, features: Sequence[Feature], reduced: Sequence[Any], rows: Rows) -> list[Result]:
        """One result for each window, or for each text if texts are not joined."""
        return merged(reduced)

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """The beginning of a window or text, and both models' perplexities."""
        assert result.losses is not None
        first, second = (f"perplexity {np.exp(loss / result.units):.4g}" for loss in result.losses)
        return Description(facts.tokenizer.decode(result.notes), "", first, second)

    def notes(self, features: Sequence[Feature], rows: Rows) -> list[str]:
        """A remark if there are so few examples that intervals are rough."""
        count = len({feature.example for feature in features})
        kind = "windows" if self.join else "texts"
        return [f"intervals come from {count} {kind}, which is few: they are rough"] if count < _FEW else []


def _texts(rows: Rows, column: str, tokenizer: Any) -> list[str]:
    if not all(map(is_chat, found := rows[column])):
        return rows.texts(column)
    return [chat_text(messages, tokenizer) for messages in found]


def _with_notes(result: Result, ids: list[int]) -> Result:
    return replace(result, notes=ids[:100])


def _byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> Counts:
    """Bytes in UTF-8 of a text up to the end of each token, with 0 before the first, int64 ``[tokens + 1]``."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    before = np.concatenate([[0], np.cumsum(sizes)])
    return before[np.array([0, *(end for _, end in offsets)])]
