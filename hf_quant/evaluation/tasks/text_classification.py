"""Text classification, and regression where the model gives one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import evaluate

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.distributions import compare
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import logits_of, require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.encoding import encode
from hf_quant.evaluation.tasks.labels import Labels, class_names

_PAIRS = {"sentence1": "sentence2", "premise": "hypothesis", "question1": "question2", "question": "sentence"}


@dataclass(frozen=True)
class TextClassification(Task):
    """Text classification: one class, or one score, for a text or a pair of texts.

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
    harm = "rise of the right label's negative log-likelihood, in nats"
    defaults = ("accuracy", "f1", "log-loss")
    fits = (*defaults, "f1-macro", "f1-micro", "f1-weighted", "matthews")
    has_labels = True

    def metric_names(self, rows: Rows, facts: ModelFacts) -> tuple[str | evaluate.EvaluationModule, ...]:
        """The metrics that are asked for, or the defaults; correlations for models with one score."""
        return self.metrics or (("pearson", "spearman") if facts.config.num_labels == 1 else self.defaults)

    def fitting(self, facts: ModelFacts) -> tuple[str, ...]:
        """Names of the metrics that suit the models: correlations for those with one score, else metrics of classes."""
        return ("pearson", "spearman") if facts.config.num_labels == 1 else self.fits

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one text or pair each, whose notes are its class or score."""
        text = self._text(rows)
        pair = self.pair_column or (_PAIRS.get(text) if _PAIRS.get(text) in rows.columns else None)
        label = rows.column(self.label_column, ("label", "labels", "target", "score"), "label_column")
        columns = (text,) if pair is None else (text, rows.column(pair, (), "pair_column"))
        tokens = encode(tuple(map(rows.texts, columns)), facts, self.max_length, f"{rows.name}: text")
        targets = self._targets(rows, label, facts)
        return [Feature(index, (each,), targets[index]) for index, each in enumerate(tokens)]

    def size(self, facts: ModelFacts) -> int:
        """Number of texts in a batch: one where the model cannot tell a text's last token from padding."""
        return self.batch_size if getattr(facts.config, "pad_token_id", None) is not None else 1

    def _text(self, rows: Rows) -> str:
        return rows.column(self.text_column, ("text", "sentence", "content", "review", *_PAIRS), "text_column")

    def _targets(self, rows: Rows, column: str, facts: ModelFacts) -> list[Any]:
        if facts.config.num_labels == 1:
            return [_score(value, f"row {index} of {column}") for index, value in enumerate(rows[column])]
        labels = Labels(facts.config.id2label, class_names(rows.dataset.features[column]), self.labels)
        return [labels.number(value, f"row {index} of {column}") for index, value in enumerate(rows[column])]

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Class, likelihoods and divergence, or score, of each text."""
        logits = [logits_of(each, "[texts, classes]", facts.config.num_labels) for each in (reference, quantized)]
        if logits[0].shape[-1] == 1:
            return _scores(batch, *logits)
        targets = logits[0].new_tensor([feature.notes for feature in batch.features]).long()
        found = compare(logits[0], logits[1], targets)
        require_finite(found.is_finite, f"text {batch.features[0].example} and its batch")
        results = []
        for index, feature in enumerate(batch.features):
            answers = (int(found.choices[0][index]), int(found.choices[1][index]))
            losses = (float(found.losses[0][index]), float(found.losses[1][index]))
            first, second = (answer == feature.notes for answer in answers)
            results.append(
                Result(
                    feature.example,
                    feature.notes,
                    answers,
                    harm=losses[1] - losses[0],
                    kl=float(found.kl[index]),
                    same=int(answers[0] == answers[1]),
                    to_wrong=int(first and not second),
                    to_right=int(second and not first),
                    losses=losses,
                )
            )
        return results

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """A text, with names of its right and predicted classes, or scores."""
        text = self._text(rows)
        said = [result.target, *result.answers]
        if facts.config.num_labels == 1:
            return Description(rows.cell(text, result.example), *(f"{value:.4g}" for value in said))
        names = {int(number): name for number, name in facts.config.id2label.items()}
        return Description(rows.cell(text, result.example), *(str(names[number]) for number in said))


def _score(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"{where} is {value!r}, the model gives one score: pass numbers to compare it with"
        ) from error


def _scores(batch: Batch, reference: Any, quantized: Any) -> list[Result]:
    both = [logits[:, 0].double().cpu() for logits in (reference, quantized)]
    require_finite(
        [bool(scores.isfinite().all()) for scores in both], f"text {batch.features[0].example} and its batch"
    )
    found = []
    for feature, first, second in zip(batch.features, both[0].tolist(), both[1].tolist(), strict=True):
        harm = abs(second - feature.notes) - abs(first - feature.notes)
        found.append(Result(feature.example, feature.notes, (first, second), harm=harm))
    return found
