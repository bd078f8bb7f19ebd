"""`hf_quant.benchmark`: size, memory, speed and energy of a quantized model beside its reference."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from hf_quant.errors import ConfigError
from hf_quant.evaluation.benchmark_report import BenchmarkReport, SpeedUp
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.evaluation.other_processes import DOUBTFUL, OtherProcesses
from hf_quant.evaluation.spread import paired_ratio
from hf_quant.hardware.detect import cpu_name
from hf_quant.kernels.native import library
from hf_quant.workflows.benchmarking.cases import Case, check_alike, given, grid, tokenized
from hf_quant.workflows.benchmarking.contestant import Contestant
from hf_quant.workflows.checkpoints import check_source, load_tokenizer

_REST = 0.1
"""Seconds of rest before a turn, in which threads of the turn before stop waiting for more work."""
_ROOM = {"auto": 1.25, "float32": 2.5}
"""Ratio of the memory that a model takes to the size of its file, which may be in 16 bits, by dtype."""


def benchmark(
    reference: Any,
    quantized: Any,
    inputs: Mapping[str, torch.Tensor] | Sequence[str] | str | None = None,
    *,
    batch_sizes: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    new_tokens: int = 32,
    rounds: int = 5,
    seconds: float = 0.5,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    tokenizer: Any = None,
    progress: bool = True,
) -> BenchmarkReport:
    """Measure two models on the same inputs: file, memory, latency, throughput, processor time and joules.

    Checkpoints given by path are loaded in a process of their own each, so that their memory is their own. The models
    have their turns one after the other in every round, in changing order, and ratios are taken within a round, so that
    a drift of the machine cancels. Each case is run once by each model before anything counts. Models that do not fit
    into memory together are loaded anew for every turn.

    Args:
        reference: Directory or repository id, or a Transformers model in memory.
        quantized: The same model, quantized: directory or repository id, or a model in memory.
        inputs: Inputs of the models: texts, or a batch as a dict of tensors that ``forward`` takes; None for random
            token ids of each of `batch_sizes` and `lengths`.
        batch_sizes: Batch sizes of random inputs; by default 1 for causal language models, and 1 and 8 for others.
        lengths: Tokens of random inputs; by default 128 for causal language models, and 32 and 128 for others.
        new_tokens: Tokens that causal language models generate for each sequence, the first included.
        rounds: Number of rounds that count; in each, every model has a turn on every input.
        seconds: Least seconds of a turn, which has at least one call.
        device: Device that checkpoints are loaded to; models in memory stay where they are.
        dtype: Dtype that checkpoints are loaded in; ``"auto"`` is the checkpoint's own.
        threads: Number of threads to compute with on a CPU; by default torch's.
        tokenizer: Tokenizer for texts; by default the one in the reference's directory.
        progress: Show a progress bar.

    Raises:
        ConfigError: A size or number is not valid, or a directory does not exist.
        EvaluationError: The models do not take the same inputs, or one cannot be loaded or run.
        UnsupportedModel: A model is no Transformers model, or one that no random input can be made for.
    """
    _check_numbers(rounds, seconds, new_tokens, threads, batch_sizes, lengths)
    sources = (_source(reference), _source(quantized))
    for source in sources:
        if isinstance(source, str):
            check_source(source, dtype)
    started, others = time.monotonic(), OtherProcesses()
    with _torch_threads(threads):
        threads = torch.get_num_threads()
        models = tuple(Contestant(source, dtype, device, threads) for source in sources)
        notes = list(_notes(models))
        try:
            first, second = models
            together = _fit_together(models, dtype)
            for model in models:
                model.start()
                if not together:
                    model.stop()
            assert first.facts is not None and second.facts is not None
            check_alike(first.facts, second.facts)
            cases = _cases(models, inputs, batch_sizes, lengths, new_tokens, tokenizer)
            _run(models, cases, rounds, seconds, together, progress)
        finally:
            for model in models:
                model.stop()
    busy = others.cores()
    if not together:
        notes.append("the models did not fit into memory together: each was loaded anew for every round")
    if busy > DOUBTFUL:
        notes.append(f"other processes kept {busy:.1f} cores busy: times and ratios may be wrong")
    options = {
        "inputs": "random token ids" if inputs is None else "given",
        "cases": [{key: value for key, value in asdict(case).items() if key != "vocabulary"} for case in cases],
        "rounds": rounds,
        "seconds": seconds,
        "dtype": dtype,
    }
    return BenchmarkReport(
        reference=first.figures(),
        quantized=second.figures(),
        speed_ups=tuple(SpeedUp(*key, paired_ratio(first.rounds(key), second.rounds(key))) for key in first.samples),
        machine=_machine(torch.device(second.instruments["device"])),
        threads=threads,
        clock=second.instruments["clock"],
        energy=second.instruments["energy"],
        options=options,
        other_cores=busy,
        notes=tuple(notes),
        seconds=time.monotonic() - started,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _run(
    models: Sequence[Contestant], cases: Sequence[Case], rounds: int, seconds: float, together: bool, progress: bool
) -> None:
    """Run a warm-up round, then the rounds that count."""
    total = (rounds + 1) * len(models) * len(cases)
    with tqdm(total=total, desc="benchmark", unit="turn", disable=not progress) as bar:
        for number in range(rounds + 1):
            order = models if number % 2 else models[::-1]
            # Where both are loaded, they take turns case by case.
            for group in [cases] if not together else [[case] for case in cases]:
                for model in order:
                    model.start()
                    if number == 0 or not together:
                        for case in group:
                            model.warm_up(case)
                    if number == 0:
                        model.settle()
                    for case in group:
                        time.sleep(_REST)
                        if number:
                            model.turn(case, seconds)
                        bar.update()
                    if not together:
                        model.stop()


def _cases(
    models: Sequence[Contestant],
    inputs: Any,
    batch_sizes: Sequence[int] | None,
    lengths: Sequence[int] | None,
    new_tokens: int,
    tokenizer: Any,
) -> list[Case]:
    facts = models[0].facts
    assert facts is not None
    if inputs is None:
        return grid(facts, batch_sizes, lengths, new_tokens)
    if batch_sizes is not None or lengths is not None:
        raise ConfigError("batch_sizes and lengths are for random inputs: leave them out, or leave out inputs")
    if not isinstance(inputs, Mapping):
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if tokenizer is None:
            paths = [model.source for model in models if not model.in_memory]
            tokenizer = next(filter(None, map(load_tokenizer, paths)), None)
        inputs = tokenized(texts, tokenizer, facts, new_tokens)
    case, tensors = given(facts, inputs, new_tokens)
    for model in models:
        model.give(tensors)
    return [case]


def _check_numbers(
    rounds: int,
    seconds: float,
    new_tokens: int,
    threads: int | None,
    batch_sizes: Sequence[int] | None,
    lengths: Sequence[int] | None,
) -> None:
    numbers = [("rounds", rounds), ("new_tokens", new_tokens), ("threads", 1 if threads is None else threads)]
    numbers += [("a batch size", size) for size in batch_sizes or ()] + [("a length", size) for size in lengths or ()]
    for name, value in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is a whole number above zero, not {value!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ConfigError(f"seconds is how long a turn lasts, at least 0, not {seconds!r}")


def _source(model: Any) -> Any:
    return str(model) if isinstance(model, str | PathLike) else model


def _notes(models: Sequence[Contestant]) -> Iterator[str]:
    if any(model.in_memory for model in models):
        yield (
            "memory of loading and running is measured of checkpoints given by path, in processes of their own; models "
            "that are in memory already share theirs"
        )
    if any(model.in_memory for model in models):
        yield "file sizes of models in memory are computed: what save_pretrained would write"


def _fit_together(models: Sequence[Contestant], dtype: str) -> bool:
    folders = [Path(model.source) for model in models if not model.in_memory and Path(model.source).is_dir()]
    needed = sum(directory_bytes(folder) for folder in folders)
    return _ROOM.get(dtype, _ROOM["auto"]) * needed < psutil.virtual_memory().available


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: torch.device) -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "hf-quant")}
    native = library.isa() or f"none: the native library is not used, {library.absence()}"
    return {
        "cpu": cpu_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "native kernels": native,
        "system": platform.platform(),
        "python": platform.python_version(),
        **packages,
    }
