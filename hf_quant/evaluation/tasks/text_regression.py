"""Regression: one score for a text, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.metric_drops import MetricInputs
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import logits_of, require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Result
from hf_quant.evaluation.tasks.several_labels import column_of
from hf_quant.evaluation.tasks.texts import LABEL_COLUMNS, TextTask, names_of


@dataclass(frozen=True)
class TextRegression(TextTask):
    """Scores of a text, by their correlation with the right ones. The column holds numbers, or lists of as many."""

    harm = "rise of the mean distance from the right score"
    defaults = ("pearson", "spearman")
    fits = defaults

    def targets(self, rows: Rows, facts: ModelFacts) -> list[Any]:
        """The right score of each row, or the right scores."""
        column, count = rows.column(self.label_column, LABEL_COLUMNS, "label_column"), facts.config.num_labels
        return [_scores(value, count, f"row {index} of {column}") for index, value in enumerate(rows[column])]

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Both models' scores of each text."""
        both = [
            logits_of(each, "[texts, scores]", facts.config.num_labels).double().cpu()
            for each in (reference, quantized)
        ]
        require_finite(
            [bool(scores.isfinite().all()) for scores in both], f"text {batch.features[0].example} and its batch"
        )
        found = []
        for feature, first, second in zip(batch.features, both[0].numpy(), both[1].numpy(), strict=True):
            harm = float(np.mean(np.abs(second - feature.notes) - np.abs(first - feature.notes)))
            if len(first) == 1:
                found.append(Result(feature.example, feature.notes, (float(first[0]), float(second[0])), harm=harm))
            else:
                found.append(Result(feature.example, np.array(feature.notes), (first, second), harm=harm))
        return found

    def named_inputs(
        self, metric: evaluate.EvaluationModule, results: Sequence[Result], facts: ModelFacts
    ) -> list[tuple[str, MetricInputs]]:
        """Inputs of a metric: of several scores, those of each alone, as their units differ."""
        if facts.config.num_labels == 1:
            return super().named_inputs(metric, results, facts)
        return [(name, column_of(results, number)) for number, name in enumerate(names_of(facts))]

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """A text, with its right and predicted scores."""
        said = (", ".join(f"{score:.4g}" for score in np.atleast_1d(each)) for each in (result.target, *result.answers))
        return Description(rows.cell(self.column_of_texts(rows), result.example), *said)


def _scores(value: Any, count: int, where: str) -> Any:
    try:
        found = [float(each) for each in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not np.isfinite(found).all():
        what = "one score" if count == 1 else f"{count} scores, as a regression"
        raise EvaluationError(
            f"{where} is {value!r:.80}, the model gives {what}: pass numbers to compare it with, {count} for each text"
        )
    return found if count > 1 else found[0]
