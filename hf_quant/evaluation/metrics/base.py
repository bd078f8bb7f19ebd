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
"""What a metric may need of a task: class numbers, scores or texts; a list of tags an example; sums of negative
log-likelihoods with the number of tokens, or of bytes."""


Items = Sequence[Any] | NDArray[Any]
"""Answers, or what is right, one an item."""


class OfflineMetric(evaluate.Metric):
    """A metric of this package. ``compute(predictions=..., references=...)`` gives a dict of floats.

    Attributes:
        summary: What it is, for ``metric.description``.
        needs: What of a task it takes.
        higher_is_better: Which way is up, for all of its values.
        is_fraction: Whether its values are parts of 1.
        by_class: Whether it counts by class.
    """

    summary: ClassVar[str] = ""
    needs: ClassVar[str] = ANSWERS
    higher_is_better: ClassVar[bool] = True
    is_fraction: ClassVar[bool] = True
    by_class: ClassVar[bool] = False

    def __init__(self, **options: Any):
        super().__init__(**{"keep_in_memory": True, **options})

    def is_defined(self, predictions: Items, references: Items) -> bool:
        """Whether these answers have values that say something."""
        return True

    def _features(self) -> dict[str, Any]:
        """Of predictions and references."""
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
        shares: Those of its values that are the share of items that are right, and the contribution that says which.
    """

    shares: ClassVar[dict[str, int]] = {}

    @abstractmethod
    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """What each item adds to the sums, ``[items, k]``.

        Args:
            predictions: One an item.
            references: Likewise.
            labels: All classes that occur in references, and in predictions of either model, sorted; for metrics that
                count by class.
        """

    @abstractmethod
    def finish(self, sums: Floats) -> dict[str, Floats]:
        """Values ``[...]`` by name, of sums ``[..., k]``. Where a value is not defined it is 0, as in scikit-learn."""

    def _compute(self, predictions: Items, references: Items) -> dict[str, float]:
        labels = classes(predictions, references) if self.by_class else []
        sums = self.contributions(predictions, references, labels).sum(0)
        return {name: float(value) for name, value in self.finish(sums).items()}


class LossMetric(SummedMetric):
    """A function of a mean loss.

    Predictions are sums of nats, one an example; references, how many losses each is the sum of.
    """

    needs = LOSSES
    higher_is_better = False
    is_fraction = False

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Nats, and what they are divided by."""
        return np.stack([np.asarray(predictions, float), np.asarray(references, float)], axis=1)


class ResampledMetric(OfflineMetric):
    """A metric that is computed anew for each resample, of many at once."""

    @abstractmethod
    def resampled(self, predictions: Items, references: Items, draws: Counts) -> dict[str, Floats]:
        """Values of resamples, ``[resamples]`` by name.

        Args:
            predictions: One an example.
            references: Likewise.
            draws: Indices of examples, ``[resamples, examples]``.
        """

    def _compute(self, predictions: Items, references: Items) -> dict[str, float]:
        found = self.resampled(predictions, references, np.arange(len(predictions))[None])
        return {name: float(values[0]) for name, values in found.items()}


def vary(*answers: Items) -> bool:
    """Whether each holds two different numbers at least, without which nothing correlates with it."""
    return all(len(np.unique(np.asarray(each, float))) > 1 for each in answers)


def classes(*answers: Items) -> list[Any]:
    """All values that occur, sorted."""
    return list(np.unique(np.concatenate([np.asarray(each) for each in answers])))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, 0 where the denominator is."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)
