"""What tasks about whole texts share: columns, encoding, and batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.tasks.base import Feature, Task
from hf_quant.evaluation.tasks.encoding import encode

_PAIRS = {"sentence1": "sentence2", "premise": "hypothesis", "question1": "question2", "question": "sentence"}
LABEL_COLUMNS = ("label", "labels", "target", "score")
"""Usual names of the column of labels."""


@dataclass(frozen=True)
class TextTask(Task):
    """A task that asks something of a text or a pair of texts as a whole.

    Args:
        text_column: Column of the texts; None for ``text``, ``sentence``, ``content``, ``review``, or the first column
            of a usual pair.
        pair_column: Column of the second texts; None for the second column of a usual pair, such as ``premise`` and
            ``hypothesis``, if there is one.
        label_column: Column of the labels; None for ``label``, ``labels``, ``target`` or ``score``.
        labels: Labels of the dataset to the models' classes, if their names do not match.
    """

    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    labels: Mapping[Any, Any] | None = None

    name = "text-classification"
    has_labels = True

    @abstractmethod
    def targets(self, rows: Rows, facts: ModelFacts) -> list[Any]:
        """What is right for each row, as a model is trained on it.

        Raises:
            EvaluationError: There is no such column, or a row holds something else.
        """

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one text or pair each, whose notes are what is right for it."""
        text = self.column_of_texts(rows)
        pair = self.pair_column or (_PAIRS.get(text) if _PAIRS.get(text) in rows.columns else None)
        columns = (text,) if pair is None else (text, rows.column(pair, (), "pair_column"))
        targets = self.targets(rows, facts)
        tokens = encode(tuple(map(rows.texts, columns)), facts, self.max_length, f"{rows.name}: text")
        return [Feature(index, (each,), targets[index]) for index, each in enumerate(tokens)]

    def size(self, facts: ModelFacts) -> int:
        """Number of texts in a batch: one where the model cannot tell a text's last token from padding."""
        return self.batch_size if getattr(facts.config, "pad_token_id", None) is not None else 1

    def column_of_texts(self, rows: Rows) -> str:
        """Name of the column of texts, or of the first texts of pairs."""
        return rows.column(self.text_column, ("text", "sentence", "content", "review", *_PAIRS), "text_column")


def names_of(facts: ModelFacts) -> list[str]:
    """Names of the models' classes, labels or scores, in the order of their numbers."""
    return [str(name) for _, name in sorted((int(number), name) for number, name in facts.config.id2label.items())]
