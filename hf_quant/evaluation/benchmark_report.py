"""What a benchmark found: frozen values that are written to JSON and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.from_json import from_json
from hf_quant.evaluation.spread import Spread

SCHEMA_VERSION = 1
"""Of `BenchmarkReport.to_dict`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Timing:
    """One model on one task, at one size of input.

    Args:
        task: ``"forward"``, ``"prefill"`` (a prompt up to its first token) or ``"decode"`` (each token after it).
        batch: Sequences.
        length: Tokens of each; those of the prompt for ``"decode"``.
        seconds: Of one call, over all calls; a call of ``"decode"`` makes one token for every sequence.
        tokens_per_second: Of the whole batch, at the median.
        sequences_per_second: Likewise; None for ``"decode"``.
        cpu_seconds: Processor time of a call, all threads together.
        joules: Of a call; None where the machine does not tell.
        rounds: Median seconds of each round.
    """

    task: str
    batch: int
    length: int
    seconds: Spread
    tokens_per_second: float
    sequences_per_second: float | None
    cpu_seconds: float
    joules: float | None
    rounds: tuple[float, ...]

    @property
    def case(self) -> tuple[str, int, int]:
        """Task, batch and length."""
        return self.task, self.batch, self.length


@dataclass(frozen=True)
class ModelFigures:
    """One model.

    Args:
        name: Directory or repository id; class and preset of a model that was passed.
        model_class: Name of its class.
        preset: Of a quantized model; None without one.
        schemes: Scheme, or dtype of what is float, to the number of modules.
        kernels: Kernel to the number of modules that it computes.
        parameters: Weights and biases, tied ones once.
        file_bytes: Of the weights' files.
        file_is_computed: Whether `file_bytes` is what ``save_pretrained`` would write, computed from the tensors.
        weight_bytes: Memory that the weights take once loaded, kernels' layouts included.
        load_seconds: From the start of loading to its end; None for a model that was passed, as what follows.
        load_peak_bytes: Most anonymous memory while loading, above that of the idle process; None where the system
            does not tell. Pages of a mapped file are not anonymous.
        run_peak_bytes: The same while running.
        resident_bytes: All resident memory after running, mapped files included, above that of the idle process.
        device_peak_bytes: Most memory that tensors took on a CUDA device; None elsewhere.
        timings: In the order of the cases.
        fingerprint: SHA-256 of the checkpoint's tensors, in hexadecimal; None where no directory was given.
    """

    name: str
    model_class: str
    preset: str | None
    schemes: dict[str, int]
    kernels: dict[str, int]
    parameters: int
    file_bytes: int
    file_is_computed: bool
    weight_bytes: int
    load_seconds: float | None
    load_peak_bytes: int | None
    run_peak_bytes: int | None
    resident_bytes: int | None
    device_peak_bytes: int | None
    timings: tuple[Timing, ...]
    fingerprint: str | None = None


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast the quantized model is on one task.

    Args:
        task: As in `Timing`.
        batch: As in `Timing`.
        length: As in `Timing`.
        ratio: Of the reference's median to the quantized model's, round by round; above 1 the latter is faster.
    """

    task: str
    batch: int
    length: int
    ratio: Spread


@dataclass(frozen=True)
class BenchmarkReport:
    """Two models on the same inputs.

    Args:
        reference: The first.
        quantized: The second.
        speed_ups: One per task and size.
        machine: CPU or device, instruction set and versions of packages, by name.
        threads: That torch, and with it the native library, computes with.
        clock: What times were taken with.
        energy: What joules were read from, or why none were.
        options: Grid, rounds and so on.
        other_cores: That other processes kept busy meanwhile.
        notes: What a reader has to know, such as models that did not fit into memory together.
        seconds: All of the benchmark.
        date: Of its end, ISO 8601.
    """

    reference: ModelFigures
    quantized: ModelFigures
    speed_ups: tuple[SpeedUp, ...]
    machine: dict[str, str]
    threads: int
    clock: str
    energy: str
    options: dict[str, Any] = field(default_factory=dict)
    other_cores: float = 0.0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    date: str = ""

    def speed_up(self, task: str, batch: int, length: int) -> SpeedUp:
        """The entry for one task and size.

        Raises:
            EvaluationError: There is none.
        """
        for entry in self.speed_ups:
            if (entry.task, entry.batch, entry.length) == (task, batch, length):
                return entry
        measured = ", ".join(f"{entry.task} {entry.batch} x {entry.length}" for entry in self.speed_ups)
        raise EvaluationError(f"{task} {batch} x {length} was not measured; measured: {measured}")

    def pairs(self) -> list[tuple[Timing, Timing, SpeedUp]]:
        """Reference, quantized model and speed-up of every task and size that was measured of both."""
        ours = {timing.case: timing for timing in self.quantized.timings}
        ratios = {(entry.task, entry.batch, entry.length): entry for entry in self.speed_ups}
        return [
            (timing, ours[timing.case], ratios[timing.case])
            for timing in self.reference.timings
            if timing.case in ours and timing.case in ratios
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with ``schema_version``."""
        return {"schema_version": SCHEMA_VERSION, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BenchmarkReport:
        """What `to_dict` wrote.

        Raises:
            EvaluationError: Another schema version, keys that are missing or unknown, or values of another type.
        """
        values = dict(values)
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise EvaluationError(f"the report has schema version {version!r}; this package reads {SCHEMA_VERSION}")
        return from_json(cls, values, "benchmark")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
