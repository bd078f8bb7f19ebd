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
"""One encoded sequence: ``input_ids``, ``attention_mask``, and ``token_type_ids`` if a tokenizer gives them."""


@dataclass(frozen=True)
class Feature:
    """Sequences of one example that are run together, one mostly.

    Args:
        example: Index of the example in the data.
        sequences: Encoded sequences; mostly one, two for pairs that are compared.
        notes: What the task needs to read the models' outputs, such as labels or positions.
    """

    example: int
    sequences: tuple[Encoded, ...]
    notes: Any = None

    @property
    def length(self) -> int:
        """Number of tokens of the longest sequence."""
        return max(len(sequence["input_ids"]) for sequence in self.sequences)


@dataclass(frozen=True)
class Batch:
    """Features that are run in one forward pass, and their tensors.

    Args:
        features: Features of the batch, at least one.
        tensors: Names of model inputs to tensors, int64 ``[sequences, tokens]``, padded on the right.
    """

    features: tuple[Feature, ...]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    """One example, answered by both models. Pairs hold the reference's value, then the quantized model's.

    Args:
        example: Row of the example in the data, or its position among windows of text.
        target: Right answer, as metrics take it; an array where an example has several answers.
        answers: Answers of both models, as metrics take them; arrays where an example has several answers.
        harm: How much worse the quantized model is, in the unit that the task's `harm` names.
        units: Number of answers in the example, which the following fields are sums over.
        kl: Sum of ``KL(reference || quantized)`` over answers, in nats.
        same: Number of answers that are the same.
        to_wrong: Number of answers that were right and became wrong.
        to_right: Number of answers that were wrong and became right.
        losses: Sums of both models' negative log-likelihoods of the right answers, in nats.
        bytes: Bytes in UTF-8 of the text that `losses` are of.
        notes: What `Task.describe` needs to put the example into words.
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
    """An example in words: its text, the right answer, and both models' answers."""

    text: str
    label: str
    reference: str
    quantized: str


@dataclass(frozen=True)
class Task(ABC):
    """A task that models are evaluated on, with its options. Subclasses are frozen dataclasses as well.

    Args:
        metrics: Metrics by name or as `evaluate.EvaluationModule` objects; empty for the task's defaults.
        batch_size: Sequences in a forward pass.
        max_length: Number of tokens that texts are cut to. None: a text that the model cannot read whole is an error.

    Attributes:
        name: Name of the task in the table of tasks.
        unit: What `Result.units` counts, in words.
        harm: Meaning and unit of `Result.harm`, in words.
        defaults: Names of the metrics that are used if none are asked for.
        fits: Names of the metrics of this package that suit the task.
        call: Keyword arguments that models are called with, beside a batch's tensors.
        has_labels: Whether the task asks for classes that the models' configs name.
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

    def fitted(self, facts: ModelFacts) -> Task:
        """The task with the same options that asks for what the models give; this one, unless they come in kinds."""
        return self

    def part(self, model: Any) -> Any:
        """The part of a model that the task runs."""
        return model

    def size(self, facts: ModelFacts) -> int:
        """Number of sequences that the models can take in one batch."""
        return self.batch_size

    def options(self) -> dict[str, Any]:
        """Options of the task that are set, as a JSON-ready dict, for the report."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "metrics"}
        return {name: _plain(value) for name, value in found.items() if value is not None}

    @abstractmethod
    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features to run the models on, made of all rows.

        Raises:
            EvaluationError: Columns are missing, labels are unknown, or a text is longer than the model's context.
        """

    @abstractmethod
    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Any]:
        """Reduce both models' outputs on a batch to what is kept of them, one entry for each feature.

        Raises:
            EvaluationError: Logits are NaN, or not what this task needs.
        """

    def results(self, features: Sequence[Feature], reduced: Sequence[Any], rows: Rows) -> list[Result]:
        """One result for each example, in order, from what `reduce` kept of each feature."""
        return list(reduced)

    @abstractmethod
    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """An example and its answers in words."""

    def notes(self, features: Sequence[Feature], rows: Rows) -> list[str]:
        """Remarks for readers of the report."""
        return []

    def metric_names(self, rows: Rows, facts: ModelFacts) -> tuple[str | evaluate.EvaluationModule, ...]:
        """The metrics that are asked for, or the task's defaults."""
        return self.metrics or self.defaults

    def fitting(self, facts: ModelFacts) -> tuple[str, ...]:
        """Names of the metrics of this package that suit the task with these models."""
        return self.fits

    def inputs(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """Inputs of a metric, made of the results.

        Raises:
            EvaluationError: The metric needs what this task does not give.
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

    def named_inputs(
        self, metric: evaluate.EvaluationModule, results: Sequence[Result], facts: ModelFacts
    ) -> list[tuple[str, MetricInputs]]:
        """Inputs of a metric, each with the name of what it is of; the name of the whole is empty."""
        return [("", self.inputs(metric, results))]

    def answers(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """Inputs of a metric over answers: one item for each answer."""
        first, second = zip(*(result.answers for result in results), strict=True)
        targets = [result.target for result in results]
        if not isinstance(targets[0], np.ndarray):
            return MetricInputs(targets, (first, second))
        owner = np.repeat(np.arange(len(results)), [len(target) for target in targets])
        return MetricInputs(np.concatenate(targets), (np.concatenate(first), np.concatenate(second)), owner)

    def sequences(self, metric: evaluate.EvaluationModule, results: Sequence[Result]) -> MetricInputs:
        """Inputs of a metric over sequences: one item for each example, a list of tags."""
        raise self.unfit(metric)

    def unfit(self, metric: evaluate.EvaluationModule) -> EvaluationError:
        """The error for a metric that needs what this task does not give."""
        return EvaluationError(
            f"{self.name} has not what the metric {metric.name} takes: use {', '.join(self.defaults)}"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool) else str(value)
