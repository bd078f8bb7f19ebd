"""Tables of benchmarks."""

from __future__ import annotations

from hf_quant.evaluation.benchmark_report import BenchmarkReport, ModelFigures
from hf_quant.reporting import words
from hf_quant.reporting.report import short_name
from hf_quant.reporting.tables.table import Section, Table


def speed_section(benchmark: BenchmarkReport) -> Section:
    """Section on one benchmark: sizes, times, throughput and cost, and how it was done."""
    return Section(
        title=f"Size, memory and speed: {short_name(benchmark.quantized.name)}",
        paragraphs=benchmark.notes,
        tables=(sizes_table(benchmark), times_table(benchmark), _costs(benchmark), _method(benchmark)),
    )


def _models(benchmark: BenchmarkReport) -> tuple[ModelFigures, ModelFigures]:
    return benchmark.reference, benchmark.quantized


def sizes_table(benchmark: BenchmarkReport) -> Table:
    """Table of both models' files and memory."""
    one, other = _models(benchmark)
    computed = " (computed)" if one.file_is_computed or other.file_is_computed else ""
    sizes = [
        (f"weights' files{computed}", one.file_bytes, other.file_bytes),
        ("weights in memory", one.weight_bytes, other.weight_bytes),
        ("peak anonymous memory, loading", one.load_peak_bytes, other.load_peak_bytes),
        ("peak anonymous memory, running", one.run_peak_bytes, other.run_peak_bytes),
        ("resident after running", one.resident_bytes, other.resident_bytes),
        ("peak memory of the device", one.device_peak_bytes, other.device_peak_bytes),
    ]
    rows = [
        (label, words.bytes_(first), words.bytes_(second))
        for label, first, second in sizes
        if first is not None or second is not None
    ]
    if one.load_seconds is not None and other.load_seconds is not None:
        rows.append(("loading", words.seconds(one.load_seconds), words.seconds(other.load_seconds)))
    rows.append(("parameters", f"{one.parameters:,}", f"{other.parameters:,}"))
    return Table(
        header=("", short_name(one.name), short_name(other.name)),
        rows=tuple(rows),
        numbers=(1, 2),
        caption="Memory is that above the idle process. Pages of a mapped file are resident, but not anonymous.",
    )


def times_table(benchmark: BenchmarkReport) -> Table:
    """Table of both models' median times of every task and size, and the speed-up."""
    one, other = _models(benchmark)
    rows = []
    for timing, ours, speed_up in benchmark.pairs():
        ratio = speed_up.ratio
        quartiles = f"({words.digits(ratio.low_quartile)} to {words.digits(ratio.high_quartile)})"
        speed = f"{words.digits(ratio.median)} x {quartiles}"
        rows.append((words.case(*timing.case), words.timing(timing), words.timing(ours), speed))
    return Table(
        header=("task, batch x length", short_name(one.name), short_name(other.name), "speed-up"),
        rows=tuple(rows),
        title="Latency",
        numbers=(1, 2, 3),
        caption="Medians, and in brackets quartiles: for times of all calls, for the speed-up of the rounds' ratios.",
    )


def _costs(benchmark: BenchmarkReport) -> Table:
    one, other = _models(benchmark)
    counted = any(timing.joules is not None for model in (one, other) for timing in model.timings)
    rows: list[tuple[str, ...]] = []
    for timing, ours, _ in benchmark.pairs():
        pair = timing, ours
        joules = " / ".join(words.ABSENT if entry.joules is None else words.digits(entry.joules) for entry in pair)
        rows.append(
            (
                words.case(*timing.case),
                " / ".join(words.digits(entry.tokens_per_second) for entry in pair),
                " / ".join(
                    words.ABSENT if entry.sequences_per_second is None else words.digits(entry.sequences_per_second)
                    for entry in pair
                ),
                " / ".join(words.seconds(entry.cpu_seconds) for entry in pair),
                *([joules] if counted else []),
            )
        )
    return Table(
        header=(
            "task, batch x length",
            "tokens per second",
            "sequences per second",
            "CPU time of a call",
            *(["joules of a call"] if counted else []),
        ),
        rows=tuple(rows),
        title="Throughput and cost",
        numbers=(1, 2, 3, 4) if counted else (1, 2, 3),
        caption=f"{short_name(one.name)} / {short_name(other.name)}. CPU time is of all threads. "
        f"Joules: {benchmark.energy}.",
    )


def _method(benchmark: BenchmarkReport) -> Table:
    options = benchmark.options
    rows = [
        *((name, str(entry)) for name, entry in benchmark.machine.items()),
        ("threads", str(benchmark.threads)),
        ("clock", benchmark.clock),
        *((f"kernels of {short_name(model.name)}", _counted(model.kernels)) for model in _models(benchmark)),
        *((f"weights of {short_name(model.name)}", _counted(model.schemes)) for model in _models(benchmark)),
        ("inputs", str(options.get("inputs", words.ABSENT))),
        ("rounds", f"{options.get('rounds', words.ABSENT)}, the models in turn, after one that does not count"),
        ("least time of a turn", f"{options.get('seconds', words.ABSENT)} s"),
        ("cores that other processes kept busy", f"{benchmark.other_cores:.2f}"),
        ("altogether", f"{benchmark.seconds:.0f} s"),
        ("date", benchmark.date),
    ]
    return Table(("what", "value"), tuple(rows), title="How it was measured", folded=True)


def _counted(names: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in names.items()) or "torch's own"
