"""What a quantized model loses on a task: from two models and data to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
"""Characters of a text in a report."""


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
    """Run both models on a task and compare what they say.

    Args:
        reference: The float model.
        quantized: The other.
        task: What they are asked to do.
        rows: Data.
        facts: About the models, which have to be comparable.
        names: What to call the models.
        bootstrap: How to resample.
        worst: Most examples to list.
        layer_examples: Features to compare each module's output on; 0 for none.
        progress: Show progress bars.

    Raises:
        EvaluationError: The data or a metric does not fit the task, or logits are NaN.
        MetricUnavailable: A metric needs the network.
    """
    start = time.perf_counter()
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
    drops = named_drops([(metric, task.inputs(metric, results)) for metric in metrics], bootstrap)
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
    metrics: Sequence[tuple[evaluate.EvaluationModule, MetricInputs]], bootstrap: Bootstrap
) -> tuple[MetricDrop, ...]:
    """Every value of every metric; a name that two of them have is given once.

    Raises:
        EvaluationError: As `metric_drops`.
    """
    found: dict[str, MetricDrop] = {}
    for metric, inputs in metrics:
        for drop in metric_drops(metric, inputs, bootstrap):
            found.setdefault(drop.name, drop)
    if not found:
        raise EvaluationError("there is no metric: give at least one")
    return tuple(found.values())


def worst_examples(
    results: Sequence[Result], count: int, describe: Callable[[Result], Description]
) -> tuple[WorstExample, ...]:
    """The results that suffer most, the worst first, in words that are cut; none that does not suffer.

    Args:
        results: In any order.
        count: How many at most.
        describe: A result in words.
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
