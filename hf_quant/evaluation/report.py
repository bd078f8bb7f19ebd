"""What an evaluation found: frozen values that are written to JSON and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.from_json import from_json
from hf_quant.registry import unknown

SCHEMA_VERSION = 1
"""Version of the layout of `DropReport.to_dict`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class MetricDrop:
    """One value of a metric for both models, and the drop between them.

    Args:
        name: Name of the value, such as ``"accuracy"``.
        reference: Value of the reference.
        quantized: Value of the quantized model.
        drop: Loss of the metric, above zero where the quantized model is worse: ``reference - quantized``, or
            ``quantized - reference`` where lower is better.
        low: Lower end of the interval of `drop`.
        high: Upper end of the interval of `drop`.
        relative_drop: Drop as a share of the reference's value, ``drop / |reference|``; None where that value is 0.
        relative_low: Lower end of the interval of `relative_drop`; None where the reference is 0.
        relative_high: Upper end of the interval of `relative_drop`; None where the reference is 0.
        higher_is_better: Whether higher values are better.
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
        """Points in one unit of the metric: 100 for metrics that are parts of 1, and 1 for all others."""
        return 100.0 if self.is_fraction else 1.0


@dataclass(frozen=True)
class Agreement:
    """How alike the two models answer. Figures that a task does not have are None.

    Args:
        unit: What is compared, in words: ``"examples"``, or ``"tokens"``, of which an example has several.
        compared: Number of answers that were compared.
        kl_mean: Mean of ``KL(reference || quantized)`` of the output distributions, in nats.
        kl_low: Lower end of the interval of `kl_mean`.
        kl_high: Upper end of the interval of `kl_mean`.
        top1_agreement: Share of answers that are the same, 0 to 1.
        flips_to_wrong: Number of answers that were right and became wrong.
        flips_to_right: Number of answers that were wrong and became right.
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
    """An example on which the quantized model is worse than the reference.

    Args:
        index: Row of the example in the data.
        text: Text of the example, cut short.
        label: Right answer; ``""`` where there is none.
        reference: Answer of the reference.
        quantized: Answer of the quantized model.
        harm: How much worse the quantized model is, in the unit that `DropReport.harm` names.
    """

    index: int
    text: str
    label: str
    reference: str
    quantized: str
    harm: float


@dataclass(frozen=True)
class LayerError:
    """Error of one module's output, between the two models on some batches.

    Args:
        name: Name of the module.
        kind: Name of the module's class in the reference.
        relative_error: Relative error, ``|quantized - reference| / |reference|``, of norms over all batches.
        depth: Number of dots in the name; 0 for the outermost modules.
    """

    name: str
    kind: str
    relative_error: float
    depth: int = 0


@dataclass(frozen=True)
class DataDescription:
    """The data that models were evaluated on.

    Args:
        name: Name of the file, id of the dataset, or kind of object that was passed.
        split: Split of the dataset, such as ``"test"``; None where it has no splits.
        fingerprint: SHA-256 of the examples that were used, in hexadecimal.
        examples: Number of examples.
    """

    name: str
    split: str | None
    fingerprint: str
    examples: int


@dataclass(frozen=True)
class DropReport:
    """What a quantized model loses on one task against its reference.

    Args:
        task: Name of the task.
        reference: Directory, repository id, or class of the reference.
        quantized: Directory, repository id, or class of the quantized model.
        metrics: Drops of the metrics; a gate looks at the first unless told otherwise.
        agreement: How alike the two models answer.
        data: The data that was evaluated on.
        examples: Number of pairs of results that statistics were made of; windows for perplexity.
        worst: Examples on which the quantized model is worse by most, the worst first.
        harm: Meaning and unit of `WorstExample.harm`, in words.
        layers: Errors of modules in the order of the forward pass; empty unless asked for.
        first_growth: The first module whose error is well above that of what comes before it: see
            `layers.first_growth`. None without `layers`, and where there is no such module.
        confidence: Confidence of all intervals, 0 to 1.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.
        options: Options of the task by name: columns, lengths, batch size and so on.
        notes: Remarks for readers, such as that intervals come from few examples.
        seconds: Seconds that the whole evaluation took.
        seconds_reference: Seconds in forward passes of the reference.
        seconds_quantized: Seconds in forward passes of the quantized model.
        environment: Names to facts about the machine: CPU, device, threads, versions of packages.
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
        """The drop of a metric by name, or of the first metric.

        Raises:
            EvaluationError: There is no such metric.
        """
        found = {metric.name: metric for metric in self.metrics}
        if name is not None and name not in found:
            raise EvaluationError(unknown("metric", name, found))
        return self.metrics[0] if name is None else found[name]

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict, with ``schema_version``."""
        plain = asdict(self)
        for name in ("metrics", "worst", "layers", "notes"):
            plain[name] = list(plain[name])
        return {"schema_version": SCHEMA_VERSION, **plain}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DropReport:
        """A report from what `to_dict` gives.

        Raises:
            EvaluationError: The schema version differs, a key is missing or unknown, or a value has another type.
        """
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise EvaluationError(f"the report has schema version {version!r}; this package reads {SCHEMA_VERSION}")
        return from_json(cls, {key: value for key, value in values.items() if key != "schema_version"}, "the report")
