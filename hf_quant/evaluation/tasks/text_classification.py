"""Text classification: one class for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.distributions import compare
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import logits_of, require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Result
from hf_quant.evaluation.tasks.labels import Labels, class_names
from hf_quant.evaluation.tasks.several_labels import SeveralLabels
from hf_quant.evaluation.tasks.text_regression import TextRegression
from hf_quant.evaluation.tasks.texts import LABEL_COLUMNS, TextTask, names_of


@dataclass(frozen=True)
class TextClassification(TextTask):
    """Text classification: one class for a text; several labels, or scores, where the model's config says so."""

    harm = "rise of the right label's negative log-likelihood, in nats"
    defaults = ("accuracy", "f1", "log-loss")
    fits = (*defaults, "f1-macro", "f1-micro", "f1-weighted", "matthews")

    def fitted(self, facts: ModelFacts) -> TextTask:
        """The task with the same options that asks for what the models give."""
        problem = getattr(facts.config, "problem_type", None)
        if problem == "multi_label_classification":
            task: type[TextTask] = SeveralLabels
        elif problem == "regression" or facts.config.num_labels == 1:
            task = TextRegression
        else:
            return self
        return task(**{entry.name: getattr(self, entry.name) for entry in fields(self)})

    def targets(self, rows: Rows, facts: ModelFacts) -> list[int]:
        """The right class of each row."""
        column = rows.column(self.label_column, LABEL_COLUMNS, "label_column")
        labels = Labels(facts.config.id2label, class_names(rows.dataset.features[column]), self.labels)
        if any(isinstance(value, list) for value in rows[column]):
            raise EvaluationError(
                f"{column} holds lists, and the models give one class: set problem_type of their configs to "
                "multi_label_classification, or to regression, if that is what they were trained for"
            )
        return [labels.number(value, f"row {index} of {column}") for index, value in enumerate(rows[column])]

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Class, likelihoods and divergence of each text."""
        logits = [logits_of(each, "[texts, classes]", facts.config.num_labels) for each in (reference, quantized)]
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
        """A text, with names of its right and predicted classes."""
        names = names_of(facts)
        said = (names[number] for number in (result.target, *result.answers))
        return Description(rows.cell(self.column_of_texts(rows), result.example), *said)
