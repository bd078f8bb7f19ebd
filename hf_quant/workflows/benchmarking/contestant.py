"""One of the models that are compared: started when it is its turn, and what its turns have shown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import Tensor

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.benchmark_report import ModelFigures, Timing
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from hf_quant.evaluation.latency import DECODE, Samples
from hf_quant.evaluation.spread import Spread
from hf_quant.workflows.benchmarking.cases import Case
from hf_quant.workflows.benchmarking.facts import Facts
from hf_quant.workflows.benchmarking.loaded import LoadedModel
from hf_quant.workflows.benchmarking.process import ModelProcess

Key = tuple[str, int, int]
"""Key of a timing: task, batch, length."""


@dataclass
class Contestant:
    """A model that takes turns in a benchmark, by path or in memory, with what its turns have shown.

    Args:
        source: Directory, repository id, or a model in memory.
        dtype: Dtype that a checkpoint is loaded in.
        device: Device that a checkpoint is loaded to.
        threads: Number of threads of a checkpoint's process.
        samples: Task, batch and length to the samples of each turn, one turn in each round.
        runner: The model while it is loaded, else None.
        facts: Facts about the model; None until it was first loaded.
    """

    source: Any
    dtype: str
    device: str
    threads: int
    samples: dict[Key, list[Samples]] = field(default_factory=dict)
    runner: ModelProcess | LoadedModel | None = None
    facts: Facts | None = None
    inputs: dict[str, Tensor] | None = None
    instruments: dict[str, str] = field(default_factory=dict)
    _memory: dict[str, Any] = field(default_factory=dict)

    @property
    def in_memory(self) -> bool:
        """Whether the model was passed in memory, not by path."""
        return not isinstance(self.source, str)

    def start(self) -> None:
        """Load the model, if it is not loaded."""
        if self.runner is not None:
            return
        if self.in_memory:
            self.runner = LoadedModel(self.source)
            self.instruments = self.runner.instruments()
        else:
            self.runner = ModelProcess(self.source, self.dtype, self.device, self.threads)
            self.instruments = self.runner.instruments
            # Of the first time: later the file is in the page cache.
            self._memory.setdefault("load_seconds", self.runner.load_seconds)
            self._memory.setdefault("load_peak_bytes", self.runner.load_peak)
        if self.inputs is not None:
            self.runner.give(self.inputs)
        if self.facts is None:
            self.facts = self.runner.facts()

    def stop(self) -> None:
        """Unload the model, and end its process."""
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def give(self, inputs: dict[str, Tensor]) -> None:
        """Set the inputs for cases that have none of their own."""
        self.inputs = inputs
        if self.runner is not None:
            self.runner.give(inputs)

    def warm_up(self, case: Case) -> None:
        """Run one turn that does not count, and note the memory it takes."""
        assert self.runner is not None
        if isinstance(self.runner, ModelProcess):
            self.runner.turn(case, 0.0, watch_memory=True)
            self._memory["run_peak_bytes"] = self.runner.run_peak
            self._memory["resident_bytes"] = self.runner.resident
        else:
            self.runner.turn(case, 0.0)

    def settle(self) -> None:
        """Update the facts about the model, once kernels are chosen."""
        assert self.runner is not None
        self.facts = self.runner.facts()
        self._memory["device_peak_bytes"] = None if self.in_memory else self.runner.device_peak()

    def turn(self, case: Case, seconds: float) -> None:
        """Run one turn that counts, and keep its samples."""
        assert self.runner is not None
        for task, samples in self.runner.turn(case, seconds).items():
            self.samples.setdefault((task, case.batch, case.length), []).append(samples)

    def rounds(self, key: Key) -> list[float]:
        """Median seconds of a call in each round, for one timing."""
        return [statistics.median(turn.seconds) for turn in self.samples[key]]

    def figures(self) -> ModelFigures:
        """All figures of the model, for a report."""
        assert self.facts is not None
        facts, folder = self.facts, None if self.in_memory else checkpoint_folder(self.source)
        size, computed = facts.computed_bytes, True
        fingerprint = None
        if folder is not None:
            size, computed = directory_bytes(folder), False
            fingerprint = _fingerprint(folder)
        kept = ("load_seconds", "load_peak_bytes", "run_peak_bytes", "resident_bytes", "device_peak_bytes")
        return ModelFigures(
            name=f"{facts.model_class} {facts.preset or next(iter(facts.schemes), '')}"
            if self.in_memory
            else self.source,
            model_class=facts.model_class,
            preset=facts.preset,
            schemes=facts.schemes,
            kernels=facts.kernels,
            parameters=facts.parameters,
            file_bytes=size,
            file_is_computed=computed,
            weight_bytes=facts.weight_bytes,
            timings=tuple(self._timing(key) for key in self.samples),
            fingerprint=fingerprint,
            **{name: self._memory.get(name) for name in kept},
        )

    def _timing(self, key: Key) -> Timing:
        task, batch, length = key
        turns = self.samples[key]
        seconds = Spread.of([one for turn in turns for one in turn.seconds])
        joules = [turn.joules for turn in turns if turn.joules is not None]
        return Timing(
            task=task,
            batch=batch,
            length=length,
            seconds=seconds,
            tokens_per_second=batch * (1 if task == DECODE else length) / seconds.median,
            sequences_per_second=None if task == DECODE else batch / seconds.median,
            cpu_seconds=sum(turn.cpu_seconds for turn in turns) / seconds.count,
            joules=sum(joules) / seconds.count if len(joules) == len(turns) else None,
            rounds=tuple(self.rounds(key)),
        )


def checkpoint_folder(source: str) -> Path | None:
    """The folder of a checkpoint on this machine; None if its files are not here."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError):
        return None


def _fingerprint(folder: Path) -> str | None:
    try:
        return checkpoint_fingerprint(folder)
    except EvaluationError:
        return None  # not in safetensors
