"""Token classification: a tag for each word, such as names of people and places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.metric_drops import MetricInputs
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import logits_of
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.encoding import require_fit, sequence
from hf_quant.evaluation.tasks.labels import Labels, class_names
from hf_quant.evaluation.tasks.tokens import Places, token_results

_IGNORED = -100
"""Tag of words that do not count, in datasets."""


@dataclass(frozen=True)
class TokenClassification(Task):
    """Token classification: a tag for each word, which is that of the word's first token.

    Args:
        text_column: Column with lists of words; None for ``tokens``, ``words`` or ``text``.
        label_column: Column with lists of tags; None for ``ner_tags``, ``tags``, ``labels``, ``pos_tags`` or ``label``.
        labels: Tags of the dataset to the models' classes, if their names do not match.
    """

    text_column: str | None = None
    label_column: str | None = None
    labels: Mapping[Any, Any] | None = None

    name = "token-classification"
    unit = "words"
    harm = "rise of the mean negative log-likelihood of a word's right tag, in nats"
    defaults = ("entity-f1", "accuracy")
    fits = (*defaults, "f1", "f1-macro", "f1-micro", "f1-weighted", "matthews", "log-loss")
    has_labels = True

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one sentence each; sentences in which no word counts are left out."""
        words = self._words(rows)
        usual = ("ner_tags", "tags", "labels", "pos_tags", "label")
        column = rows.column(self.label_column, usual, "label_column")
        labels = Labels(facts.config.id2label, class_names(rows.dataset.features[column]), self.labels)
        found = []
        for index, (row, tags) in enumerate(zip(words, rows[column], strict=True)):
            if not isinstance(tags, list) or len(tags) != len(row):
                raise EvaluationError(
                    f"row {index} of {rows.name} has {len(row)} words and the tags {tags!r:.80}: make them alike"
                )
            feature = self._feature(index, row, tags, labels, facts, f"row {index} of {column}")
            if feature is not None:
                found.append(feature)
        return found

    def _column(self, rows: Rows) -> str:
        return rows.column(self.text_column, ("tokens", "words", "text"), "text_column")

    def _words(self, rows: Rows) -> list[list[str]]:
        column = self._column(rows)
        words = rows[column]
        for index, row in enumerate(words):
            if not isinstance(row, list) or not all(isinstance(word, str) for word in row):
                raise EvaluationError(
                    f"row {index} of {column} is {row!r:.80}, not a list of words: divide texts first"
                )
        return words

    def _feature(
        self, index: int, words: list[str], tags: list[Any], labels: Labels, facts: ModelFacts, where: str
    ) -> Feature | None:
        longest = facts.length(self.max_length)
        cut = {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        before = _before_words(facts.tokenizer)
        fields = facts.tokenizer([[before + word for word in words]], is_split_into_words=True, verbose=False, **cut)
        tokens = sequence(fields, 0)
        require_fit(len(tokens["input_ids"]), longest, f"{where}, the text,")
        firsts: dict[int, int] = {}
        for position, word in enumerate(fields.word_ids(0)):
            if word is not None and tags[word] != _IGNORED:
                firsts.setdefault(word, position)
        if not firsts:
            return None
        targets = np.array([labels.number(tags[word], where) for word in firsts])
        return Feature(index, (tokens,), Places(list(firsts.values()), targets, notes=facts.config.id2label))

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Tags, likelihoods and divergence at the words of each sentence that count."""
        logits = [logits_of(each, "[texts, tokens, tags]", facts.config.num_labels) for each in (reference, quantized)]
        return token_results(batch, *logits)

    def sequences(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """Inputs of a metric over sequences: the names of tags, one list for each sentence."""
        first, second, targets = (
            [[_name(result, number) for number in numbers] for result, numbers in zip(results, column, strict=True)]
            for column in zip(*((*result.answers, result.target) for result in results), strict=True)
        )
        return MetricInputs(targets, (first, second))

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """The words of a sentence, its right tags, and both models' tags."""
        tags = (" ".join(_name(result, number) for number in each) for each in (result.target, *result.answers))
        return Description(" ".join(rows.cell(self._column(rows), result.example)), *tags)


def _before_words(tokenizer: Any) -> str:
    """What stands before each word, so that its tokens are those of a word within a text.

    Tokens of byte-level BPE begin with the space before them, which is lost where texts are divided into words.
    """
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "a a"))
    for before in ("", " "):
        fields = tokenizer([[f"{before}a"] * 2], is_split_into_words=True, add_special_tokens=False)
        second = [each for each, word in zip(fields["input_ids"][0], fields.word_ids(0), strict=True) if word == 1]
        if second == two[len(one) :]:
            return before
    return ""


def _name(result: Result, number: int) -> str:
    return str(result.notes[int(number)])
