"""Tasks of the package `lm-eval`, run by its own model class, compared example by example."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hf_quant.errors import EvaluationError, MissingDependency
from hf_quant.evaluation.agreement import agreement
from hf_quant.evaluation.drop import worst_examples
from hf_quant.evaluation.metric_drops import MetricInputs, metric_drops
from hf_quant.evaluation.metrics.accuracy import Accuracy
from hf_quant.evaluation.metrics.base import SummedMetric
from hf_quant.evaluation.metrics.bits_per_byte import BitsPerByte
from hf_quant.evaluation.metrics.mean import Mean, MeanCost
from hf_quant.evaluation.metrics.perplexity import Perplexity
from hf_quant.evaluation.outputs import require_finite
from hf_quant.evaluation.report import DataDescription, DropReport, MetricDrop
from hf_quant.evaluation.statistics import Bootstrap, Floats
from hf_quant.evaluation.tasks.base import Description, Result
from hf_quant.registry import unknown

PREFIX = "lm-eval:"
"""Prefix of task names: ``lm-eval:NAME`` is the task NAME of the package."""


_OURS = (
    *("self", "kwargs", "pretrained", "tokenizer", "batch_size", "max_length", "device", "dtype", "revision"),
    *("subfolder", "trust_remote_code", "use_fast_tokenizer", "parallelize", "max_memory_per_gpu", "max_cpu_memory"),
    *("offload_folder", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file"),
)
"""Arguments of `lm-eval`'s model class that are said otherwise, or would load a model, which is there already."""


@dataclass(frozen=True)
class HarnessTask:
    """A task of `lm-eval` with its options.

    Args:
        name: Name of the task, in the package or in a file of the folder.
        folder: Folder with the user's own tasks in YAML; None for those of the package. Tasks may name Python
            functions, which are run: take folders from people that you trust.
        metrics: Names of the metrics to report, the main one first; empty for all.
        batch_size: Sequences in a forward pass.
        max_length: Most tokens of a sequence; None for as many as the model reads.
        num_fewshot: Number of examples in the prompt; None for the task's own.
        model_args: Arguments of `lm-eval`'s model class by name, such as ``add_bos_token``.
        limit: Number of documents to use, the first ones; None for all.
    """

    name: str
    folder: Path | None = None
    metrics: tuple[str, ...] = ()
    batch_size: int = 1
    max_length: int | None = None
    num_fewshot: int | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True)
class _Answers:
    """One metric with each example's values for both models, in order."""

    metric: SummedMetric
    predictions: tuple[Floats, Floats]
    references: Floats


def evaluate_harness(
    reference: nn.Module,
    quantized: nn.Module,
    tokenizer: Any,
    task: HarnessTask,
    *,
    names: tuple[str, str],
    bootstrap: Bootstrap,
    worst: int = 10,
) -> DropReport:
    """Run both models on a task of `lm-eval` and compare their answers.

    A metric whose value is no mean, perplexity or bits per byte of its values for single examples allows no interval,
    and is left out, which the report notes.

    Args:
        reference: The float model.
        quantized: The quantized model.
        tokenizer: Tokenizer of both models.
        task: The task with its options.
        names: Names of the reference and the quantized model in the report.
        bootstrap: Number, seed and confidence of the resamples of examples.
        worst: Most examples to list of those that suffer most.

    Raises:
        MissingDependency: `lm-eval` is not installed.
        EvaluationError: There is no such task or metric, it is a group of tasks, or a model gives NaN.
    """
    start = time.perf_counter()
    manager = _manager(task)
    first, first_seconds = _run(reference, tokenizer, task, manager)
    second, second_seconds = _run(quantized, tokenizer, task, manager)
    samples = list(zip(_samples(first, task), _samples(second, task), strict=True))
    found, notes = _metrics(first, second, samples, task)
    drops: list[MetricDrop] = []
    for name, answers in found.items():
        (drop,) = metric_drops(answers.metric, MetricInputs(answers.references, answers.predictions), bootstrap)
        values = np.concatenate(answers.predictions)
        fraction = isinstance(answers.metric, Mean | Accuracy) and values.min() >= 0 and values.max() <= 1
        drops.append(replace(drop, name=name, is_fraction=bool(fraction)))
    main = next(iter(found))
    results = [_result(index, pair, found[main]) for index, pair in enumerate(samples)]
    digest = hashlib.sha256("\n".join(f"{one['doc_hash']} {one['prompt_hash']}" for one, _ in samples).encode())
    return DropReport(
        task=f"{PREFIX}{task.name}",
        reference=names[0],
        quantized=names[1],
        metrics=tuple(drops),
        agreement=agreement(results, "examples", bootstrap),
        data=DataDescription(f"{PREFIX}{task.name}", None, digest.hexdigest(), len(samples)),
        examples=len(samples),
        worst=worst_examples(results, worst, lambda result: _describe(*samples[result.example])),
        harm=f"what is lost of {main}",
        confidence=bootstrap.confidence,
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
        options=_options(task, first),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
        seconds_reference=first_seconds,
        seconds_quantized=second_seconds,
    )


def _manager(task: HarnessTask) -> Any:
    """The `lm-eval` task manager that knows a task."""
    try:
        import lm_eval.tasks
    except ImportError as error:
        raise MissingDependency(
            f'tasks of lm-eval need that package, and {error.name!r} is not installed: pip install "hf-quant[lm-eval]"'
        ) from error
    if task.folder is not None:
        # Alone first: to look through the thousands of the package takes half a minute.
        manager = lm_eval.tasks.TaskManager(include_path=str(task.folder), include_defaults=False)
        if task.name in manager.all_tasks:
            return manager
    manager = lm_eval.tasks.TaskManager(include_path=None if task.folder is None else str(task.folder))
    if task.name not in manager.all_tasks:
        near = difflib.get_close_matches(task.name, manager.all_tasks, n=3)
        where = "" if task.folder is None else f", nor in {task.folder}"
        raise EvaluationError(
            f"there is no task {task.name!r} in lm-eval{where}; near to it: {', '.join(near) or 'nothing'}"
        )
    return manager


def _run(model: nn.Module, tokenizer: Any, task: HarnessTask, manager: Any) -> tuple[dict[str, Any], float]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    options = {"batch_size": task.batch_size, **task.model_args}
    if task.max_length is not None:
        options["max_length"] = task.max_length
    _check_arguments(HFLM, task)
    start = time.perf_counter()
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, **options),
        tasks=[task.name],
        num_fewshot=task.num_fewshot,
        limit=task.limit,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    return found, time.perf_counter() - start


def _check_arguments(model_class: Any, task: HarnessTask) -> None:
    known = [name for name in inspect.signature(model_class.__init__).parameters if name not in _OURS]
    for name in task.model_args:
        if name in _OURS:
            raise EvaluationError(f"{name} is no argument to hand on: it has an option of its own, or is the model's")
        if name not in known:
            raise EvaluationError(f"lm-eval has {unknown('model argument', name, known)}")


def _samples(found: Mapping[str, Any], task: HarnessTask) -> list[dict[str, Any]]:
    """Logged samples of all documents, in order, by the first of the task's filters."""
    groups = found["samples"]
    if list(groups) != [task.name]:
        raise EvaluationError(f"{task.name} is a group of tasks: name one of {', '.join(groups)[:400]}")
    samples = groups[task.name]
    if not samples:
        raise EvaluationError(f"{task.name} has no documents: take another split in its YAML, or a larger limit")
    first = samples[0]["filter"]
    return sorted((each for each in samples if each["filter"] == first), key=lambda each: int(each["doc_id"]))


def _metrics(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    samples: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    task: HarnessTask,
) -> tuple[dict[str, _Answers], list[str]]:
    """Names of metrics to their answers, in the order asked for, and notes on those that are left out."""
    known = list(samples[0][0]["metrics"])
    for name in task.metrics:
        if name not in known:
            raise EvaluationError(f"{task.name} has {unknown('metric', name, known)}")
    filtered = samples[0][0]["filter"]
    found, notes = {}, []
    for name in task.metrics or known:
        totals = tuple(run["results"][task.name].get(f"{name},{filtered}") for run in (first, second))
        values = [[one[name] for one in column] for column in zip(*samples, strict=True)]
        answers = _answers(values, totals, first["higher_is_better"][task.name].get(name) is not False)
        if answers is None:
            notes.append(f"{name} is left out: how it is put together allows no interval")
        else:
            found[name] = answers
    if not found:
        raise EvaluationError(f"{task.name} gives no metric that has an interval: take another task or metric")
    return found, notes


def _answers(values: Sequence[Sequence[Any]], totals: Sequence[Any], higher: bool) -> _Answers | None:
    """The metric that gives both models' totals from their values for single examples, with its inputs; or None."""
    try:
        first, second = (np.array([[float(part) for part in np.atleast_1d(one)] for one in each]) for each in values)
    except (TypeError, ValueError):
        return None
    require_finite([bool(np.isfinite(each).all()) for each in (first, second)], "this task")
    candidates: list[_Answers] = []
    if first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1] == 2:
        # Log-likelihoods, and the words or bytes they are of.
        losses = (-first[:, 0], -second[:, 0])
        candidates = [_Answers(metric, losses, first[:, 1]) for metric in (Perplexity(), BitsPerByte())]
    elif first.shape[1] == second.shape[1] == 1:
        scores = (first[:, 0], second[:, 0])
        is_share = higher and set(np.unique(first)) | set(np.unique(second)) <= {0.0, 1.0}
        metric = Accuracy() if is_share else Mean() if higher else MeanCost()
        candidates = [_Answers(metric, scores, np.ones(len(first)))]
    return next((each for each in candidates if _agrees(each, totals)), None)


def _agrees(answers: _Answers, totals: Sequence[Any]) -> bool:
    for predictions, total in zip(answers.predictions, totals, strict=True):
        (value,) = answers.metric.compute(predictions=predictions, references=answers.references).values()
        if not isinstance(total, int | float) or not math.isclose(value, total, rel_tol=1e-6, abs_tol=1e-9):
            return False
    return True


def _result(index: int, pair: tuple[dict[str, Any], dict[str, Any]], main: _Answers) -> Result:
    said = tuple(_said(sample) for sample in pair)
    first, second = (float(each[index]) for each in main.predictions)
    lost = first - second if main.metric.higher_is_better else (second - first) / float(main.references[index])
    same = None if None in said else int(said[0] == said[1])
    result = Result(index, answers=(said[0], said[1]), harm=lost, same=same)
    if not isinstance(main.metric, Accuracy):
        return result
    return replace(result, to_wrong=int(first > second), to_right=int(second > first))


def _said(sample: Mapping[str, Any]) -> str | None:
    """A model's answer: the likeliest choice, or the text it wrote; None where a task only scores a text."""
    responses = sample["filtered_resps"]
    if len(responses) > 1 and all(isinstance(each, list | tuple) for each in responses):
        best = max(range(len(responses)), key=lambda choice: responses[choice][0])
        return str(sample["arguments"][best][1]).strip()
    return responses[0] if isinstance(responses[0], str) else None


def _describe(first: Mapping[str, Any], second: Mapping[str, Any]) -> Description:
    said = (_said(sample) or str(sample["filtered_resps"][0]) for sample in (first, second))
    return Description(str(first["arguments"][0][0]), str(first["target"]), *said)


def _options(task: HarnessTask, found: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "lm_eval": found["lm_eval_version"],
        "version": found["versions"].get(task.name),
        "num_fewshot": found["n-shot"].get(task.name),
        "batch_size": task.batch_size,
        "max_length": task.max_length,
        "limit": task.limit,
        "model_args": json.dumps(dict(task.model_args), default=str) if task.model_args else None,
        "folder": None if task.folder is None else str(task.folder),
    }
    return {name: value for name, value in options.items() if value is not None}
