"""What a quantized model loses on a task: from two models and data to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import evaluate
import numpy as np
from torch import nn

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import METRICS
from hf_quant.evaluation.agreement import agreement
from hf_quant.evaluation.comparable import require_known_tokens
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.layers import first_growth, layer_errors
from hf_quant.evaluation.metric_drops import MetricInputs, metric_drops
from hf_quant.evaluation.metrics.resolve import metric_module
from hf_quant.evaluation.models import ModelFacts, ModelPair
from hf_quant.evaluation.report import DropReport, MetricDrop, WorstExample
from hf_quant.evaluation.run import run
from hf_quant.evaluation.statistics import Bootstrap
from hf_quant.evaluation.tasks.base import Description, Result, Task

_SHOWN = 300
"""Most characters of a text in a report."""


def evaluate_pair(
    reference: nn.Module,
    quantized: nn.Module,
    task: Task,
    rows: Rows,
    facts: ModelFacts,
    *,
    names: tuple[str, str],
    bootstrap: Bootstrap,
    worst: int = 10,
    layer_examples: int = 0,
    progress: bool = True,
) -> DropReport:
    """Run both models on a task and compare their answers.

    Args:
        reference: The float model.
        quantized: The quantized model.
        task: The task that both models are evaluated on.
        rows: The data.
        facts: Facts about the models, which have to be comparable.
        names: Names of the reference and the quantized model in the report.
        bootstrap: Number, seed and confidence of the resamples of examples.
        worst: Most examples to list of those that suffer most.
        layer_examples: Number of features to compare each module's output on; 0: modules are not compared.
        progress: Show progress bars.

    Raises:
        EvaluationError: The data or a metric does not fit the task, or logits are NaN.
        MetricUnavailable: A metric needs the network.
    """
    start = time.perf_counter()
    task = task.fitted(facts)
    # Before anything runs for long: a metric may not be there.
    names_of_metrics = task.metric_names(rows, facts)
    for metric in names_of_metrics:
        if isinstance(metric, str) and metric in METRICS and metric not in task.fitting(facts):
            raise EvaluationError(
                f"the metric {metric} says nothing of {task.name} with these models: take one of "
                f"{', '.join(task.fitting(facts))}"
            )
    metrics = [metric_module(metric) for metric in names_of_metrics]
    features = task.features(rows, facts)
    require_known_tokens(features, facts)
    pair = ModelPair(task.part(reference), task.part(quantized))
    results = run(task, pair, features, rows, facts, progress)
    drops = named_drops(
        [(metric, *each) for metric in metrics for each in task.named_inputs(metric, results, facts)], bootstrap
    )
    layers = layer_errors(pair, task, features, facts, layer_examples, progress) if layer_examples else ()
    return DropReport(
        task=task.name,
        reference=names[0],
        quantized=names[1],
        metrics=drops,
        agreement=agreement(results, task.unit, bootstrap),
        data=rows.describe(),
        examples=len(results),
        worst=worst_examples(results, worst, lambda result: task.describe(result, rows, facts)),
        harm=task.harm,
        layers=layers,
        first_growth=first_growth(layers),
        confidence=bootstrap.confidence,
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
        options=task.options(),
        notes=tuple(task.notes(features, rows)),
        seconds=time.perf_counter() - start,
        seconds_reference=pair.seconds[0],
        seconds_quantized=pair.seconds[1],
    )


def named_drops(
    metrics: Sequence[tuple[evaluate.EvaluationModule, str, MetricInputs]], bootstrap: Bootstrap
) -> tuple[MetricDrop, ...]:
    """Drops of every value of every metric; where two metrics have a value of one name, the first one's.

    Args:
        metrics: Metrics, each with the name of what it is of, empty for the whole, and its inputs.
        bootstrap: Number, seed and confidence of the resamples of examples.

    Raises:
        EvaluationError: There is no metric, or one does not take what the task gives, or gives NaN.
    """
    found: dict[str, MetricDrop] = {}
    for metric, part, inputs in metrics:
        for drop in _drops_of(metric, part, inputs, bootstrap):
            found.setdefault(drop.name, drop)
    if not found:
        raise EvaluationError("there is no metric: give at least one")
    return tuple(found.values())


def _drops_of(
    metric: evaluate.EvaluationModule, part: str, inputs: MetricInputs, bootstrap: Bootstrap
) -> list[MetricDrop]:
    if not part:
        return metric_drops(metric, inputs, bootstrap)
    try:
        return [replace(drop, name=f"{drop.name} of {part}") for drop in metric_drops(metric, inputs, bootstrap)]
    except EvaluationError as error:
        raise EvaluationError(f"{part}, one of several labels or scores of a regression: {error}") from error


def worst_examples(
    results: Sequence[Result], count: int, describe: Callable[[Result], Description]
) -> tuple[WorstExample, ...]:
    """The examples on which the quantized model is worse by most, the worst first, with texts cut short.

    Args:
        results: Results in any order.
        count: Most examples to give.
        describe: Function from a result to a description in words.
    """
    harms = np.array([result.harm for result in results])
    order = np.argsort(-harms, kind="stable")[:count]
    found = []
    for result in (results[index] for index in order if harms[index] > 0):
        said = describe(result)
        parts = {name: _cut(getattr(said, name)) for name in ("text", "label", "reference", "quantized")}
        found.append(WorstExample(index=result.example, harm=float(result.harm), **parts))
    return tuple(found)


def _cut(text: Any) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
