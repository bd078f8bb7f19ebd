"""What a benchmark found: frozen values that are written to JSON and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.from_json import from_json
from hf_quant.evaluation.spread import Spread

SCHEMA_VERSION = 1
"""Version of the layout of `BenchmarkReport.to_dict`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Timing:
    """Times of one model on one task, at one size of input.

    Args:
        task: What is timed: ``"forward"``, ``"prefill"`` (a prompt up to its first token) or ``"decode"`` (each later
            token).
        batch: Number of sequences.
        length: Tokens of each sequence; those of the prompt for ``"decode"``.
        seconds: Seconds of one call, over all calls; a call of ``"decode"`` makes one token for every sequence.
        tokens_per_second: Tokens per second of the whole batch, at the median.
        sequences_per_second: Sequences per second, at the median; None for ``"decode"``.
        cpu_seconds: Processor time of a call in seconds, all threads together.
        joules: Energy of a call, in joules; None where the machine does not tell.
        rounds: Median seconds of a call in each round.
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
        """The measured case: task, batch and length."""
        return self.task, self.batch, self.length


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one model: what it is, its sizes, memory and times.

    Args:
        name: Directory or repository id; class and preset of a model that was passed in memory.
        model_class: Name of the model's class.
        preset: Preset of a quantized model; None without one.
        schemes: Scheme, or dtype of float modules, to the number of modules.
        kernels: Name of a kernel to the number of modules that it computes.
        parameters: Number of elements of weights and biases, tied ones counted once.
        file_bytes: Bytes of the files of weights.
        file_is_computed: Whether `file_bytes` is what ``save_pretrained`` would write, computed from the tensors.
        weight_bytes: Bytes of memory that the weights take once loaded, kernels' layouts included.
        load_seconds: Seconds that loading took; None for a model that was passed in memory.
        load_peak_bytes: Most bytes of anonymous memory while loading, above that of the idle process; None for a model
            in memory, or where the system does not tell. Pages of a mapped file are not anonymous.
        run_peak_bytes: Most bytes of anonymous memory while running, above that of the idle process; None as there.
        resident_bytes: Bytes of resident memory after running, mapped files included, above that of the idle process;
            None as there.
        device_peak_bytes: Most bytes that tensors took on a CUDA device; None elsewhere, and for a model in memory.
        timings: Times of each case, in the order of the cases.
        fingerprint: SHA-256 of the checkpoint's tensors and plan, in hexadecimal; None where no directory was given.
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
    """How many times as fast the quantized model is as the reference, on one task at one size.

    Args:
        task: What is timed: ``"forward"``, ``"prefill"`` or ``"decode"``.
        batch: Number of sequences.
        length: Tokens of each sequence; those of the prompt for ``"decode"``.
        ratio: Reference's median time over the quantized model's, round by round; above 1 the quantized one is faster.
    """

    task: str
    batch: int
    length: int
    ratio: Spread


@dataclass(frozen=True)
class BenchmarkReport:
    """Sizes, memory and times of two models on the same inputs.

    Args:
        reference: Figures of the reference, usually float.
        quantized: Figures of the quantized model.
        speed_ups: Speed-up of the quantized model, one for each task and size.
        machine: Names to facts about the machine: CPU or device, instruction set, versions of packages.
        threads: Number of threads that torch, and with it the native library, computes with.
        clock: Name of the clock that times were taken with.
        energy: Name of the counter that joules were read from, or why none were.
        options: Names of options of the benchmark, such as cases and rounds, to their values.
        other_cores: Cores that other processes kept busy meanwhile, on average.
        notes: Remarks for readers, such as that the models did not fit into memory together.
        seconds: Seconds that the whole benchmark took.
        date: Date and time of its end, ISO 8601.
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
        """The speed-up on one task at one size.

        Raises:
            EvaluationError: That task and size was not measured.
        """
        for entry in self.speed_ups:
            if (entry.task, entry.batch, entry.length) == (task, batch, length):
                return entry
        measured = ", ".join(f"{entry.task} {entry.batch} x {entry.length}" for entry in self.speed_ups)
        raise EvaluationError(f"{task} {batch} x {length} was not measured; measured: {measured}")

    def pairs(self) -> list[tuple[Timing, Timing, SpeedUp]]:
        """Times of the reference, times of the quantized model, and speed-up, for each case that both ran."""
        ours = {timing.case: timing for timing in self.quantized.timings}
        ratios = {(entry.task, entry.batch, entry.length): entry for entry in self.speed_ups}
        return [
            (timing, ours[timing.case], ratios[timing.case])
            for timing in self.reference.timings
            if timing.case in ours and timing.case in ratios
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict, with ``schema_version``."""
        return {"schema_version": SCHEMA_VERSION, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BenchmarkReport:
        """A report from what `to_dict` gives.

        Raises:
            EvaluationError: The schema version differs, a key is missing or unknown, or a value has another type.
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
