"""What an evaluation found: frozen values that are written to JSON and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.from_json import from_json
from hf_quant.registry import unknown

SCHEMA_VERSION = 1
"""Of `DropReport.to_dict`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class MetricDrop:
    """One figure of both models.

    Args:
        name: Such as ``"accuracy"``.
        reference: Value of the reference.
        quantized: Value of the quantized model.
        drop: What was lost, above zero where the quantized model is worse: ``reference - quantized``, or
            ``quantized - reference`` where lower is better.
        low: Lower end of the interval of `drop`.
        high: Upper end of the interval of `drop`.
        relative_drop: ``drop / |reference|``; None where the reference is 0.
        relative_low: Lower end of the interval of `relative_drop`; None where that is.
        relative_high: Upper end of the interval of `relative_drop`; None where that is.
        higher_is_better: Which way is up.
        is_fraction: Whether the metric is a part of 1, so that a point is a hundredth.
    """

    name: str
    reference: float
    quantized: float
    drop: float
    low: float
    high: float
    relative_drop: float | None
    relative_low: float | None
    relative_high: float | None
    higher_is_better: bool
    is_fraction: bool

    @property
    def points_per_unit(self) -> float:
        """A point is a hundredth of metrics that are parts of 1, and 1 of all others."""
        return 100.0 if self.is_fraction else 1.0


@dataclass(frozen=True)
class Agreement:
    """How alike the two models answer. What a task has no such thing for is None.

    Args:
        unit: What is compared: ``"examples"``, or ``"tokens"``, of which an example has several.
        compared: How many there were.
        kl_mean: Mean of ``KL(reference || quantized)`` of the output distributions, in nats.
        kl_low: Lower end of its interval.
        kl_high: Upper end of its interval.
        top1_agreement: Part, from 0 to 1, of answers that are the same.
        flips_to_wrong: Answers that were right and became wrong.
        flips_to_right: Answers that were wrong and became right.
        mcnemar_p: Two-sided p of McNemar's exact test; where an example has several answers, of the exact test that
            exchanges the models' results example by example, which is the same test for one answer each.
    """

    unit: str
    compared: int
    kl_mean: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    top1_agreement: float | None = None
    flips_to_wrong: int | None = None
    flips_to_right: int | None = None
    mcnemar_p: float | None = None


@dataclass(frozen=True)
class WorstExample:
    """An example that suffers most.

    Args:
        index: Its row in the data.
        text: Its text, cut.
        label: What is right; ``""`` where there is no such thing.
        reference: The reference's answer.
        quantized: The quantized model's answer.
        harm: How much worse, in the unit that `DropReport.harm` names.
    """

    index: int
    text: str
    label: str
    reference: str
    quantized: str
    harm: float


@dataclass(frozen=True)
class LayerError:
    """One module's output, compared between the models on some batches.

    Args:
        name: The module, in the order of the forward pass.
        kind: Its class in the reference.
        relative_error: ``|quantized - reference| / |reference|``, norms over all batches.
        depth: Dots in the name; 0 for the outermost modules.
    """

    name: str
    kind: str
    relative_error: float
    depth: int = 0


@dataclass(frozen=True)
class DataDescription:
    """What was evaluated on.

    Args:
        name: File, dataset's id, or what kind of object was passed.
        split: Such as ``"test"``; None where there are none.
        fingerprint: SHA-256, in hexadecimal, of the examples that were used.
        examples: How many there were.
    """

    name: str
    split: str | None
    fingerprint: str
    examples: int


@dataclass(frozen=True)
class DropReport:
    """Two models on one task.

    Args:
        task: Name of the task.
        reference: What the reference is: directory, repository id, or class of a model that was passed.
        quantized: The same of the quantized model.
        metrics: The first is the one that a gate looks at unless told otherwise.
        agreement: How alike the answers are.
        data: What was evaluated on.
        examples: Pairs of results that statistics were made of; windows for perplexity.
        worst: The worst first.
        harm: What `WorstExample.harm` is, in words.
        layers: Errors of modules in the order of the forward pass; empty unless asked for.
        first_growth: The first module whose error is well above that of what comes before it: see
            `layers.first_growth`. None without `layers`, and where there is no such module.
        confidence: Of all intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        options: Of the task: columns, lengths, batch size and so on.
        notes: What a reader has to know, such as texts that were cut.
        seconds: All of the evaluation.
        seconds_reference: Forward passes of the reference.
        seconds_quantized: Forward passes of the quantized model.
        environment: Versions of packages, device.
    """

    task: str
    reference: str
    quantized: str
    metrics: tuple[MetricDrop, ...]
    agreement: Agreement
    data: DataDescription
    examples: int
    worst: tuple[WorstExample, ...] = ()
    harm: str = ""
    layers: tuple[LayerError, ...] = ()
    first_growth: str | None = None
    confidence: float = 0.95
    resamples: int = 0
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    seconds_reference: float = 0.0
    seconds_quantized: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    def metric(self, name: str | None = None) -> MetricDrop:
        """The metric of that name, or the first.

        Raises:
            EvaluationError: There is none.
        """
        found = {metric.name: metric for metric in self.metrics}
        if name is not None and name not in found:
            raise EvaluationError(unknown("metric", name, found))
        return self.metrics[0] if name is None else found[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with ``schema_version``."""
        plain = asdict(self)
        for name in ("metrics", "worst", "layers", "notes"):
            plain[name] = list(plain[name])
        return {"schema_version": SCHEMA_VERSION, **plain}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DropReport:
        """What `to_dict` wrote.

        Raises:
            EvaluationError: Another schema version, keys that are missing or unknown, or values of another type.
        """
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise EvaluationError(f"the report has schema version {version!r}; this package reads {SCHEMA_VERSION}")
        return from_json(cls, {key: value for key, value in values.items() if key != "schema_version"}, "the report")
