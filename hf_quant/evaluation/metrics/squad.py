"""Exact match and F1 of extracted answers, as for SQuAD."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_quant.evaluation.metrics.base import Items, SummedMetric, ratio
from hf_quant.evaluation.statistics import Floats


class Squad(SummedMetric):
    """Exact match and F1, 0 to 1, of answers normalised as for SQuAD: no case, punctuation, articles, extra spaces.

    The rules are those of Rajpurkar et al. (2016).

    Predictions are texts; references, lists of texts that are all right. An empty list, or one of empty texts, means
    that there is no answer. The best of an item's references counts.
    """

    summary = "Exact match and F1 over words of extracted answers, normalised as for SQuAD."
    shares = {"exact_match": 0}  # noqa: RUF012

    def _features(self) -> dict[str, Any]:
        return {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Exact match, F1, and 1 for each answer, float64 ``[items, 3]``."""
        scores = [answer_scores(text, right) for text, right in zip(predictions, references, strict=True)]
        return np.array([[exact, f1, 1.0] for exact, f1 in scores]).reshape(-1, 3)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Exact match and F1 from sums: their means over answers."""
        return {"exact_match": ratio(sums[..., 0], sums[..., 2]), "f1": ratio(sums[..., 1], sums[..., 2])}


def answer_scores(answer: str, right: Sequence[str]) -> tuple[float, float]:
    """Exact match, 0 or 1, and F1 over words, 0 to 1, of an answer against the best of the right ones."""
    words = _words(answer)
    scores = [_word_f1(words, _words(text)) for text in right] or [float(not words)]
    exact = any(words == _words(text) for text in right) if right else not words
    return float(exact), max(scores)


def _words(text: str) -> list[str]:
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _word_f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    common = (Counter(answer) & Counter(right)).total()
    return 2 * common / (len(answer) + len(right))
