"""Multi-label classification: any number of labels for a text, each of which is there or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
from torch import Tensor, nn

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.metric_drops import MetricInputs
from hf_quant.evaluation.metrics.f1 import F1
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import logits_of, require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Result
from hf_quant.evaluation.tasks.labels import Labels, class_names
from hf_quant.evaluation.tasks.texts import LABEL_COLUMNS, TextTask, names_of


@dataclass(frozen=True)
class SeveralLabels(TextTask):
    """Labels of a text, each an answer of its own: it is there where its logit is above 0.

    The column of labels holds lists: a 0 or 1 for each of the models' labels, or the names of those that are there, or
    their numbers where the column's type names them. Without one, there is a column of 0 and 1 for each label.
    """

    unit = "labels"
    harm = "rise of the mean negative log-likelihood of what is right of a label, in nats"
    defaults = ("f1", "accuracy", "log-loss")
    fits = (*defaults, "matthews")

    def targets(self, rows: Rows, facts: ModelFacts) -> list[list[float]]:
        """1 for each label that is there, and 0 for the others, of each row."""
        names = names_of(facts)
        if self.label_column is None and not set(LABEL_COLUMNS) & set(rows.columns) and set(names) <= set(rows.columns):
            columns = [rows[name] for name in names]
            return [_flags(list(row), names, f"row {index}") for index, row in enumerate(zip(*columns, strict=True))]
        column = rows.column(self.label_column, LABEL_COLUMNS, "label_column")
        feature = rows.dataset.features[column]
        labels = Labels(facts.config.id2label, class_names(feature), self.labels)
        by_name = class_names(feature) is not None or self.labels is not None or _is_of_texts(feature)
        found = []
        for index, value in enumerate(rows[column]):
            where = f"row {index} of {column}"
            if not isinstance(value, list):
                raise EvaluationError(
                    f"{where} is {value!r}, and the models give several labels (problem_type is multi_label_"
                    "classification): give a list of 0 and 1, or of names"
                )
            there = {labels.number(each, where) for each in value} if by_name else set()
            found.append(
                [float(number in there) for number in range(len(names))] if by_name else _flags(value, names, where)
            )
        return found

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Labels, likelihoods and divergence of each text, label by label."""
        logits = [
            logits_of(each, "[texts, labels]", facts.config.num_labels).double().cpu()
            for each in (reference, quantized)
        ]
        finite = [bool(each.isfinite().all()) for each in logits]
        require_finite(finite, f"text {batch.features[0].example} and its batch")
        right = logits[0].new_tensor([feature.notes for feature in batch.features])
        losses = [_loss(each, right).sum(-1) for each in logits]
        likely = logits[0].sigmoid()
        kl = (_loss(logits[1], likely) - _loss(logits[0], likely)).sum(-1).clamp_min(0.0)
        said = [(each > 0).long().numpy() for each in logits]
        targets = right.long().numpy()
        results = []
        for row, feature in enumerate(batch.features):
            answers, target = (said[0][row], said[1][row]), targets[row]
            hit = [answer == target for answer in answers]
            both = (float(losses[0][row]), float(losses[1][row]))
            results.append(
                Result(
                    feature.example,
                    target,
                    answers,
                    harm=(both[1] - both[0]) / len(target),
                    units=len(target),
                    kl=float(kl[row]),
                    same=int((answers[0] == answers[1]).sum()),
                    to_wrong=int((hit[0] & ~hit[1]).sum()),
                    to_right=int((hit[1] & ~hit[0]).sum()),
                    losses=both,
                )
            )
        return results

    def named_inputs(
        self, metric: evaluate.EvaluationModule, results: Sequence[Result], facts: ModelFacts
    ) -> list[tuple[str, MetricInputs]]:
        """Inputs of a metric: all labels together, and for F1 each label alone."""
        whole = super().named_inputs(metric, results, facts)
        names = names_of(facts) if isinstance(metric, F1) else []
        return [*whole, *((name, column_of(results, number)) for number, name in enumerate(names))]

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """A text, with the names of its labels and of those that both models give it."""
        names = np.array(names_of(facts))
        said = (", ".join(names[each == 1]) or "none" for each in (result.target, *result.answers))
        return Description(rows.cell(self.column_of_texts(rows), result.example), *said)


def column_of(results: Sequence[Result], number: int) -> MetricInputs:
    """Answers of one label or score of several, an item for each example."""
    first, second = ([result.answers[which][number] for result in results] for which in (0, 1))
    return MetricInputs([result.target[number] for result in results], (first, second))


def _loss(logits: Tensor, likely: Tensor) -> Tensor:
    """Negative log-likelihood of labels that are there as likely as given, in nats, of each."""
    return nn.functional.binary_cross_entropy_with_logits(logits, likely, reduction="none")


def _flags(values: list[Any], names: list[str], where: str) -> list[float]:
    if len(values) != len(names) or not all(value in (0, 1) for value in values):
        raise EvaluationError(
            f"{where} is {values!r:.80}: for the models' several labels give a 0 or 1 for each of {', '.join(names)}, "
            "or the names of those that are there"
        )
    return [float(value) for value in values]


def _is_of_texts(feature: Any) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.Value) and inner.dtype in ("string", "large_string")
