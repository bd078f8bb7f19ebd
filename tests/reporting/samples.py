"""Reports for tests, as evaluations and benchmarks make them; figures are made up."""

import random

from hf_quant.evaluation.benchmark_report import BenchmarkReport, ModelFigures, SpeedUp, Timing
from hf_quant.evaluation.report import (
    Agreement,
    DataDescription,
    DropReport,
    LayerError,
    MetricDrop,
    WorstExample,
)
from hf_quant.evaluation.spread import Spread, paired_ratio
from hf_quant.reporting.report import Report

HOSTILE = (
    '<script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)> '
    "![x](http://evil.example) | `$\\frac"
)
"""What a text in a data set may hold."""


def drop_report(model="models/minilm-int8", loss=0.004, layers=40, task="text-classification", hostile=HOSTILE):
    """An evaluation of a classifier that lost `loss` of its accuracy."""
    chance = random.Random(model)
    names = [
        f"bert.encoder.layer.{number // 4}.attention.self.very.very.long.names.that.go.on.part{number % 4}"
        for number in range(layers)
    ]
    return DropReport(
        task=task,
        reference="models/minilm",
        quantized=model,
        metrics=(
            MetricDrop(
                "accuracy",
                0.9531,
                0.9531 - loss,
                loss,
                loss - 0.006,
                loss + 0.007,
                loss / 0.9531,
                (loss - 0.006) / 0.9531,
                (loss + 0.007) / 0.9531,
                True,
                True,
            ),
            MetricDrop("log loss", 0.1702, 0.1730, 0.0028, 0.0011, 0.0046, 0.0165, 0.0065, 0.027, False, False),
        ),
        agreement=Agreement("examples", 2125, 0.0021, 0.0017, 0.0026, 0.9906, 14, 6, 0.1153),
        data=DataDescription("reviews.csv", "test", "ab" * 32, 2125),
        examples=2125,
        worst=tuple(
            WorstExample(
                number, f"{hostile} {'a long text ' * 20}", "positive", "positive", "negative", 0.9 - number / 10
            )
            for number in range(3)
        ),
        harm="log loss added",
        layers=tuple(
            LayerError(name, "Linear", 0.004 * (1 + number / 8) * chance.uniform(0.8, 1.3), name.count("."))
            for number, name in enumerate(names)
        ),
        first_growth=names[len(names) // 3] if names else None,
        resamples=2000,
        options={"batch_size": 32, "text_column": hostile},
        notes=("3 texts were cut at 512 tokens",),
        seconds=61.0,
        seconds_reference=40.0,
        seconds_quantized=12.0,
        environment={"torch": "2.13.0", "device": "cpu"},
    )


def timing(task, batch, length, milliseconds, model):
    """Of a model whose calls take about so long."""
    chance = random.Random(f"{task} {batch} {model}")
    rounds = tuple(milliseconds / 1e3 * chance.uniform(0.97, 1.05) for _ in range(5))
    seconds = Spread.of(rounds)
    tokens = batch * (1 if task == "decode" else length)
    return Timing(
        task,
        batch,
        length,
        seconds,
        tokens / seconds.median,
        None if task == "decode" else batch / seconds.median,
        1.9 * seconds.median,
        None,
        rounds,
    )


def figures(name, preset, size, times):
    """Of a model with those sizes and times in milliseconds."""
    return ModelFigures(
        name=name,
        model_class="BertForSequenceClassification",
        preset=preset,
        schemes={"W8A8 rot64": 37, "float32": 14} if preset else {"float32": 51},
        kernels={"native": 40} if preset else {},
        parameters=22_713_216,
        file_bytes=size,
        file_is_computed=False,
        weight_bytes=size + 400_000,
        load_seconds=0.31,
        load_peak_bytes=37_200_000,
        run_peak_bytes=45_000_000,
        resident_bytes=71_000_000,
        device_peak_bytes=None,
        timings=tuple(timing(*case, milliseconds, name) for case, milliseconds in times.items()),
        fingerprint="cd" * 32 if preset else None,
    )


def benchmark_report(model="models/minilm-int8", size=23_000_000, speed=5.0):
    """A benchmark of a model that is `speed` times as fast."""
    cases = {("forward", 1, 32): 9.1, ("forward", 8, 128): 212.0, ("decode", 1, 128): 26.5}
    reference = figures("models/minilm", None, 90_900_000, cases)
    quantized = figures(model, model[-4:], size, {case: time / speed for case, time in cases.items()})
    pairs = zip(reference.timings, quantized.timings, strict=True)
    return BenchmarkReport(
        reference=reference,
        quantized=quantized,
        speed_ups=tuple(SpeedUp(*one.case, paired_ratio(one.rounds, other.rounds)) for one, other in pairs),
        machine={"cpu": "a CPU", "native kernels": "avx512-vnni", "torch": "2.13.0"},
        threads=2,
        clock="perf_counter",
        energy="not readable here: no processor package in /sys/class/powercap",
        options={"inputs": "random token ids", "rounds": 5, "seconds": 0.5},
        other_cores=0.03,
        notes=(),
        seconds=48.0,
        date="2026-01-02T03:04:05+00:00",
    )


def full_report():
    """INT8 and INT4, evaluated and benchmarked."""
    return Report(
        (
            drop_report(),
            drop_report("models/minilm-int4", 0.0151),
            drop_report(loss=-0.002, layers=0, task="sentence-similarity"),
        ),
        (benchmark_report(), benchmark_report("models/minilm-int4", 17_800_000, 4.4)),
    )
