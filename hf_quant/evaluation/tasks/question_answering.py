"""Extractive question answering: an answer is a stretch of the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.distributions import compare
from hf_quant.evaluation.metrics.squad import answer_scores
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.encoding import sequence

_USUAL_LENGTH = 384
_USUAL_STRIDE = 128


@dataclass(frozen=True)
class _Span:
    """The best answer in one window: characters of the context, its score, and the score of no answer."""

    start: int
    end: int
    score: float
    no_answer: float


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Extractive question answering. Long contexts are read in windows that overlap; the best answer of all counts.

    Args:
        question_column: Column of the questions; None for ``question``.
        text_column: Column of the contexts; None for ``context``, ``passage`` or ``text``.
        label_column: Column of the right answers: a text, a list of texts that are all right, or SQuAD's mapping with
            such a list, ``text``. None for ``answers`` or ``answer``.
        max_length: Tokens of a window, question included; None for 384, or as many as the model reads if that is less.
        stride: Tokens that neighbouring windows share; None for 128, or a third of a window if that is less.
        answer_length: Most tokens of an answer.
    """

    question_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    stride: int | None = None
    answer_length: int = 30

    name = "question-answering"
    harm = "fall of the answer's F1"
    defaults = ("squad",)
    fits = defaults

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("stride", 0), ("answer_length", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise EvaluationError(f"{name} must be a whole number from {least} on, not {value!r}")

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one window each, whose notes are the places of its tokens in the context."""
        if not facts.tokenizer.is_fast:
            raise EvaluationError("question answering needs a fast tokenizer, one with tokenizer.json")
        questions = rows.texts(rows.column(self.question_column, ("question",), "question_column"))
        contexts = rows.texts(rows.column(self.text_column, ("context", "passage", "text"), "text_column"))
        length = facts.length(self.max_length if self.max_length is not None else self._length(facts))
        assert length is not None
        found = []
        for example, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            fields = self._encode(question, context, facts.tokenizer, length, f"row {example} of {rows.name}")
            for window, offsets in enumerate(fields["offset_mapping"]):
                inside = [
                    part == 1 and end > start
                    for part, (start, end) in zip(fields.sequence_ids(window), offsets, strict=True)
                ]
                found.append(Feature(example, (sequence(fields, window),), (inside, offsets)))
        return found

    def _length(self, facts: ModelFacts) -> int:
        return min(_USUAL_LENGTH, facts.positions or _USUAL_LENGTH)

    def _encode(self, question: str, context: str, tokenizer: Any, length: int, where: str) -> Any:
        stride = min(_USUAL_STRIDE, length // 3) if self.stride is None else self.stride
        asked = len(tokenizer(question, verbose=False)["input_ids"]) + 1
        if length - asked <= stride:
            raise EvaluationError(
                f"{where}: its question leaves {max(0, length - asked)} of {length} tokens to the context, and windows "
                f"share {stride}: give a smaller stride, a larger max_length, or leave it out"
            )
        return tokenizer(
            [question],
            [context],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Any]:
        """Both models' best answers in each window, and the divergence of starts and ends together, in nats."""
        both = [_positions(outputs) for outputs in (reference, quantized)]
        allowed = torch.zeros(both[0][0].shape, dtype=torch.bool)
        for row, feature in enumerate(batch.features):
            allowed[row, : len(feature.notes[0])] = torch.tensor(feature.notes[0])
        real = batch.tensors["attention_mask"].bool()
        divergence = torch.zeros(len(batch.features), dtype=torch.float64)
        for first, second in zip(*both, strict=True):
            lowest = torch.finfo(first.dtype).min
            found = compare(first.masked_fill(~real, lowest), second.masked_fill(~real, lowest))
            require_finite(found.is_finite, f"example {batch.features[0].example} and its batch")
            divergence += found.kl
        spans = [self._spans(starts, ends, allowed, batch) for starts, ends in both]
        return list(zip(*spans, divergence.tolist(), strict=True))

    def _spans(self, starts: Tensor, ends: Tensor, allowed: Tensor, batch: Batch) -> list[_Span]:
        lowest = torch.finfo(starts.dtype).min / 4
        scores = starts.masked_fill(~allowed, lowest)[:, :, None] + ends.masked_fill(~allowed, lowest)[:, None]
        ones = torch.ones(scores.shape[1:], dtype=torch.bool)
        in_order = ones.triu() & ones.tril(self.answer_length - 1)
        best = scores.masked_fill(~in_order, 2 * lowest).flatten(1).max(1)
        found = []
        for row, feature in enumerate(batch.features):
            start, end = divmod(int(best.indices[row]), scores.shape[-1])
            offsets = feature.notes[1]
            none = float(starts[row, 0] + ends[row, 0])
            if not feature.notes[0] or not any(feature.notes[0]):
                found.append(_Span(0, 0, -torch.inf, none))
            else:
                found.append(_Span(offsets[start][0], offsets[end][1], float(best.values[row]), none))
        return found

    def results(self, features: Sequence[Feature], reduced: Sequence[Any], rows: Rows) -> list[Result]:
        """One result for each question, from all its windows."""
        contexts = rows.texts(rows.column(self.text_column, ("context", "passage", "text"), "text_column"))
        column = rows.column(self.label_column, ("answers", "answer"), "label_column")
        right = [_answers(value, f"row {index} of {column}") for index, value in enumerate(rows[column])]
        may_be_none = any(not any(texts) for texts in right)
        windows: dict[int, list[Any]] = {}
        for feature, each in zip(features, reduced, strict=True):
            windows.setdefault(feature.example, []).append(each)
        found = []
        for example, parts in sorted(windows.items()):
            first, second = (_best([part[which] for part in parts], contexts[example], may_be_none) for which in (0, 1))
            scores = [answer_scores(answer, right[example]) for answer in (first, second)]
            exact = [bool(score[0]) for score in scores]
            found.append(
                Result(
                    example,
                    right[example],
                    (first, second),
                    harm=scores[0][1] - scores[1][1],
                    kl=sum(part[2] for part in parts) / len(parts),
                    same=int(first == second),
                    to_wrong=int(exact[0] and not exact[1]),
                    to_right=int(exact[1] and not exact[0]),
                )
            )
        return found

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """A question, its right answers, and both models' answers."""
        question = rows.column(self.question_column, ("question",), "question_column")
        return Description(rows.cell(question, result.example), " / ".join(result.target), *result.answers)


def _positions(outputs: Any) -> tuple[Tensor, Tensor]:
    starts, ends = getattr(outputs, "start_logits", None), getattr(outputs, "end_logits", None)
    if starts is None or ends is None:
        raise EvaluationError(
            "this task needs start_logits and end_logits: load a model with a question-answering head"
        )
    return starts.float().cpu(), ends.float().cpu()


def _best(spans: Sequence[_Span], context: str, may_be_none: bool) -> str:
    best = max(spans, key=lambda span: span.score)
    if may_be_none and min(span.no_answer for span in spans) > best.score:
        return ""
    return context[best.start : best.end]


def _answers(value: Any, where: str) -> list[str]:
    """The right answers of one row, as texts; none where the question has no answer."""
    texts = value.get("text") if isinstance(value, Mapping) else value
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise EvaluationError(
            f"{where} is {value!r:.80}: answers are a text, a list of texts, or a mapping with text=[...]"
        )
    return list(texts)
