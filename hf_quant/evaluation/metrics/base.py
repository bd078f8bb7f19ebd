"""The contract of the metrics that are shipped, and what makes their intervals cheap."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from hf_quant.evaluation.statistics import Counts, Floats

ANSWERS, SEQUENCES, LOSSES, BYTES = "answers", "sequences", "losses", "bytes"
"""Kinds of input that a metric may need: class numbers, scores or texts; a list of tags for each example; sums of
negative log-likelihoods with the number of tokens, or of bytes."""


Items = Sequence[Any] | NDArray[Any]
"""Answers of a model, or right answers, one for each item."""


class OfflineMetric(evaluate.Metric):
    """A metric that needs no network. ``compute(predictions=..., references=...)`` gives a dict of floats.

    Attributes:
        summary: Description of the metric, for ``metric.description``.
        needs: Kind of input that the metric takes: `ANSWERS`, `SEQUENCES`, `LOSSES` or `BYTES`.
        higher_is_better: Whether higher values are better, for all values of the metric.
        is_fraction: Whether the metric's values are parts of 1, so that a point is a hundredth.
        by_class: Whether the metric counts by class.
    """

    summary: ClassVar[str] = ""
    needs: ClassVar[str] = ANSWERS
    higher_is_better: ClassVar[bool] = True
    is_fraction: ClassVar[bool] = True
    by_class: ClassVar[bool] = False

    def __init__(self, **options: Any):
        super().__init__(**{"keep_in_memory": True, **options})

    def is_defined(self, predictions: Items, references: Items) -> bool:
        """Whether the metric has a value for these answers."""
        return True

    def _features(self) -> dict[str, Any]:
        """Types of predictions and references, by name, for `datasets`."""
        return {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description=self.summary,
            features=datasets.Features(self._features()),
        )


class SummedMetric(OfflineMetric):
    """A metric that is a function of sums over examples, so that a resample costs one product of matrices.

    Attributes:
        shares: Name of each value that is the share of right items, to the index of the contribution that is 1 for
            right items.
    """

    shares: ClassVar[dict[str, int]] = {}

    @abstractmethod
    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """What each item adds to the sums, float64 ``[items, k]``.

        Args:
            predictions: Answers of one model, one for each item.
            references: Right answers, one for each item.
            labels: All classes that occur in references and in predictions of either model, sorted; empty for metrics
                that do not count by class.
        """

    @abstractmethod
    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Names of values to values ``[...]``, from sums ``[..., k]``; undefined values are 0, as in scikit-learn."""

    def _compute(self, predictions: Items, references: Items) -> dict[str, float]:
        labels = classes(predictions, references) if self.by_class else []
        sums = self.contributions(predictions, references, labels).sum(0)
        return {name: float(value) for name, value in self.finish(sums).items()}


class LossMetric(SummedMetric):
    """A metric that is a function of a mean loss.

    Predictions are sums of nats, one an example; references, how many losses each is the sum of.
    """

    needs = LOSSES
    higher_is_better = False
    is_fraction = False

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Nats of each example, and the number of losses that they are the sum of, float64 ``[examples, 2]``."""
        return np.stack([np.asarray(predictions, float), np.asarray(references, float)], axis=1)


class ResampledMetric(OfflineMetric):
    """A metric that is computed anew for each resample, for many resamples at once."""

    @abstractmethod
    def resampled(self, predictions: Items, references: Items, draws: Counts) -> dict[str, Floats]:
        """Names of values to their values for each resample, float64 ``[resamples]``.

        Args:
            predictions: Answers of one model, one for each example.
            references: Right answers, one for each example.
            draws: Indices of the examples of each resample, int64 ``[resamples, examples]``.
        """

    def _compute(self, predictions: Items, references: Items) -> dict[str, float]:
        found = self.resampled(predictions, references, np.arange(len(predictions))[None])
        return {name: float(values[0]) for name, values in found.items()}


def vary(*answers: Items) -> bool:
    """Whether each sequence holds two different numbers at least, as a correlation needs."""
    return all(len(np.unique(np.asarray(each, float))) > 1 for each in answers)


def classes(*answers: Items) -> list[Any]:
    """All values that occur in some sequences, sorted."""
    return list(np.unique(np.concatenate([np.asarray(each) for each in answers])))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient of two arrays, element by element; 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)
