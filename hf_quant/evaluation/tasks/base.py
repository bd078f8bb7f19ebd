"""The contract of tasks: from rows of data to what a model is run on, and from two models' outputs to results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import evaluate
import numpy as np
from torch import Tensor

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.metric_drops import MetricInputs
from hf_quant.evaluation.metrics.base import ANSWERS, BYTES, LOSSES, SEQUENCES
from hf_quant.evaluation.metrics.resolve import needs
from hf_quant.evaluation.models import ModelFacts

Encoded = dict[str, list[int]]
"""``input_ids``, ``attention_mask``, and ``token_type_ids`` where a tokenizer gives them."""


@dataclass(frozen=True)
class Feature:
    """What is run at once.

    Args:
        example: Row of the data it belongs to.
        sequences: Token sequences, mostly one.
        notes: What the task needs to read the outputs.
    """

    example: int
    sequences: tuple[Encoded, ...]
    notes: Any = None

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence["input_ids"]) for sequence in self.sequences)


@dataclass(frozen=True)
class Batch:
    """Features that run together.

    Args:
        features: At least one.
        tensors: int64 ``[sequences, tokens]`` by name, padded on the right.
    """

    features: tuple[Feature, ...]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    """One example, answered by both models. Pairs are the reference's and the quantized model's.

    Args:
        example: Its row in the data, or its position among windows of text.
        target: What is right, as metrics take it; arrays where an example has several answers.
        answers: What the models say, likewise.
        harm: How much worse the quantized model is.
        units: How many answers the following are sums over.
        kl: Sum of ``KL(reference || quantized)``, nats.
        same: Answers that are the same.
        to_wrong: Answers that were right and became wrong.
        to_right: Answers that were wrong and became right.
        losses: Sums of negative log-likelihoods of what is right, nats.
        bytes: Of the text that losses are of.
        notes: What `Task.describe` needs.
    """

    example: int
    target: Any = None
    answers: tuple[Any, Any] = (None, None)
    harm: float = 0.0
    units: int = 1
    kl: float | None = None
    same: int | None = None
    to_wrong: int | None = None
    to_right: int | None = None
    losses: tuple[float, float] | None = None
    bytes: int | None = None
    notes: Any = None


@dataclass(frozen=True)
class Description:
    """An example in words: its text, what is right, and what the models say."""

    text: str
    label: str
    reference: str
    quantized: str


@dataclass(frozen=True)
class Task(ABC):
    """What models are asked to do, with its options. Subclasses are frozen dataclasses as well.

    Args:
        metrics: Names, or `evaluate.EvaluationModule` objects; none for the task's own choice.
        batch_size: Sequences of a batch.
        max_length: Texts are cut to so many tokens. None: a text that the model cannot read whole is an error.

    Attributes:
        name: In the table of tasks.
        unit: What `Result.units` counts.
        harm: What `Result.harm` is, in words.
        defaults: Metrics, if none are asked for.
        fits: Metrics of this package that say something of it.
        call: What models are called with beside a batch's tensors.
        has_labels: Whether it asks for classes that the models' configs name.
    """

    metrics: tuple[str | evaluate.EvaluationModule, ...] = ()
    batch_size: int = 16
    max_length: int | None = None

    name: ClassVar[str]
    unit: ClassVar[str] = "examples"
    harm: ClassVar[str]
    defaults: ClassVar[tuple[str, ...]]
    fits: ClassVar[tuple[str, ...]]
    call: ClassVar[dict[str, Any]] = {}
    has_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise EvaluationError(f"{name} must be a positive integer, not {value!r}")

    def part(self, model: Any) -> Any:
        """What of a model is run."""
        return model

    def size(self, facts: ModelFacts) -> int:
        """Sequences of a batch that the models can take."""
        return self.batch_size

    def options(self) -> dict[str, Any]:
        """Those that are set, JSON-ready, for the report."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "metrics"}
        return {name: _plain(value) for name, value in found.items() if value is not None}

    @abstractmethod
    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """What to run, made of all rows.

        Raises:
            EvaluationError: Columns are missing, labels are unknown, or a text is longer than the model's context.
        """

    @abstractmethod
    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Any]:
        """What is left of the models' outputs for each feature of a batch; the outputs themselves are not kept.

        Raises:
            EvaluationError: Logits are NaN, or not what this task is about.
        """

    def results(self, features: Sequence[Feature], reduced: Sequence[Any], rows: Rows) -> list[Result]:
        """One result an example, ascending; `reduced` has what `reduce` left of each feature."""
        return list(reduced)

    @abstractmethod
    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """An example for people to read."""

    def notes(self, features: Sequence[Feature], rows: Rows) -> list[str]:
        """What a reader of the report has to know."""
        return []

    def metric_names(self, rows: Rows, facts: ModelFacts) -> tuple[str | evaluate.EvaluationModule, ...]:
        """Those asked for, or the task's own choice."""
        return self.metrics or self.defaults

    def fitting(self, facts: ModelFacts) -> tuple[str, ...]:
        """Metrics of this package that say something of the task with these models."""
        return self.fits

    def inputs(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """What a metric takes of the results.

        Raises:
            EvaluationError: It needs what this task does not give.
        """
        wanted = needs(metric)
        if wanted in (LOSSES, BYTES):
            counts = [result.units if wanted == LOSSES else result.bytes for result in results]
            losses = [result.losses for result in results]
            if None in losses or None in counts:
                raise self.unfit(metric)
            first, second = zip(*losses, strict=True)
            return MetricInputs(counts, (first, second))
        if wanted == SEQUENCES:
            return self.sequences(metric, results)
        assert wanted == ANSWERS
        return self.answers(metric, results)

    def answers(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """One item an answer."""
        first, second = zip(*(result.answers for result in results), strict=True)
        targets = [result.target for result in results]
        if not isinstance(targets[0], np.ndarray):
            return MetricInputs(targets, (first, second))
        owner = np.repeat(np.arange(len(results)), [len(target) for target in targets])
        return MetricInputs(np.concatenate(targets), (np.concatenate(first), np.concatenate(second)), owner)

    def sequences(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """One item an example, each a list of tags."""
        raise self.unfit(metric)

    def unfit(self, metric: evaluate.EvaluationModule) -> EvaluationError:
        """The error for a metric that takes something else."""
        return EvaluationError(
            f"{self.name} has not what the metric {metric.name} takes: use {', '.join(self.defaults)}"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool) else str(value)
