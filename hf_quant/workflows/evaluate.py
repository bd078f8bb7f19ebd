"""`hf_quant.evaluate_drop`: what a quantized model loses on a task, beside its reference."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_quant.errors import EvaluationError, MissingDependency
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.models import ModelFacts, device_of, model_facts
from hf_quant.evaluation.report import DropReport
from hf_quant.hardware.detect import cpu_name
from hf_quant.kernels.native import library
from hf_quant.registry import unknown
from hf_quant.workflows.benchmarking.facts import facts_of
from hf_quant.workflows.checkpoints import checked_device, load_model, load_tokenizer

if TYPE_CHECKING:
    from evaluate import EvaluationModule

    from hf_quant.evaluation.harness import HarnessTask
    from hf_quant.evaluation.statistics import Bootstrap
    from hf_quant.evaluation.tasks.base import Task

_HARNESS = "lm-eval:"
_LAYER_EXAMPLES = 8
"""Number of examples that modules are compared on, if it is not given."""


def evaluate_drop(
    reference: Any,
    quantized: Any,
    task: str,
    dataset: Any = None,
    *,
    split: str | None = None,
    metrics: str | EvaluationModule | Sequence[str | EvaluationModule] = (),
    tokenizer: Any = None,
    max_examples: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    per_layer: bool | int = False,
    worst: int = 10,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "auto",
    progress: bool = True,
    **options: Any,
) -> DropReport:
    """Run two models on the same examples and report what was lost, with paired statistics.

    Args:
        reference: Directory or repository id, or a Transformers model in memory; usually float.
        quantized: The same model, quantized: directory or repository id, or a model in memory.
        task: Name of the task: ``text-classification``, ``token-classification``, ``question-answering``,
            ``masked-lm``, ``causal-lm`` or ``sentence-similarity``; or ``lm-eval:NAME``, a task of the package
            `lm-eval`, run by its model class.
        dataset: Data: a `datasets.Dataset` or ``DatasetDict``, a list of texts or of mappings, a file (``.jsonl``,
            ``.json``, ``.csv``, ``.tsv``, ``.txt``, also as ``.gz``, ``.parquet``, ``.arrow``), a folder that
            `datasets` saved, or a dataset's id on the Hub, ``name`` or ``name:subset``. Of
            ``lm-eval``, a folder with tasks in YAML of one's own, or None.
        split: Split of a ``DatasetDict`` or of a dataset on the Hub; by default test, validation, or the only one.
        metrics: Metrics by name or as `evaluate.EvaluationModule` objects; a gate looks at the first. Names in
            `hf_quant.evaluation.METRICS` need no network; others are loaded by ``evaluate.load``. By default the
            task's own.
        tokenizer: Tokenizer of both models; by default the one beside the reference, which the quantized model must
            have, too.
        max_examples: Most rows to use, drawn at random by `seed`; of ``lm-eval``, the first ones.
        batch_size: Sequences in a forward pass; by default 16, and 1 for ``causal-lm``.
        max_length: Tokens that texts are cut to; None: a text that is longer than the context is an error. For
            ``causal-lm`` and ``question-answering``, which read long texts in windows, the tokens of a window.
        per_layer: Whether the output of each module is compared, too, on 8 examples; or the number of examples.
        worst: Most examples to list of those that suffer most.
        resamples: Number of resamples of the bootstrap.
        confidence: Confidence of all intervals, above 0 and below 1.
        seed: Seed of the bootstrap, and of the rows that `max_examples` draws.
        device: Device that checkpoints are loaded to; models in memory stay where they are.
        dtype: Dtype that checkpoints are loaded in; ``"auto"`` is the checkpoint's own.
        progress: Show progress bars.
        **options: Options of the task, such as ``text_column``, ``label_column``, ``labels``, ``stride``: see the
            classes in `hf_quant.evaluation.tasks`. Of ``lm-eval``, ``num_fewshot``, and ``model_args``, a dict of
            arguments of its model class, such as ``{"add_bos_token": True}``.

    Raises:
        EvaluationError: The models cannot be compared (other labels, another tokenizer), the data does not fit the
            task (missing columns, nothing in it, texts that are too long), or logits are NaN.
        MetricUnavailable: A metric needs the network, or a package that is not installed.
        UnknownName: There is no such task.
        ConfigError: There is no such directory or dtype.
        MissingDependency: The packages `evaluate`, `datasets` or `scipy`, or `lm-eval`, are not installed.
    """
    evaluate_pair, open_rows, bootstrap_class = _machinery()
    checked_device(device)
    bootstrap = bootstrap_class(resamples, seed, confidence)
    _count("worst", worst)
    layer_examples = _count("per_layer", _LAYER_EXAMPLES if per_layer is True else int(per_layer))
    sizes = {"batch_size": batch_size, "max_length": max_length}
    if task.startswith(_HARNESS):
        if layer_examples or split is not None:
            raise EvaluationError(f"{task} runs by lm-eval, which has no use for split and per_layer: leave them out")
        harness = _harness_task(task, dataset, metrics, {**options, **sizes, "limit": max_examples})
        return _by_harness((reference, quantized), harness, tokenizer, device, dtype, bootstrap, worst)
    asked = _task(task, metrics, {**options, **{name: size for name, size in sizes.items() if size is not None}})
    if dataset is None:
        raise EvaluationError(f"{task} needs data: pass dataset=..., a datasets.Dataset, a list, a file or an id")
    # Before models are loaded, which takes longer.
    rows = open_rows(dataset, split, max_examples, seed)
    models = tuple(_loaded(source, dtype, device) for source in (reference, quantized))
    facts = _facts((reference, quantized), models, tokenizer, asked.has_labels)
    odd = _notes(models)
    report = evaluate_pair(
        *models,
        asked,
        rows,
        facts,
        names=(_name(reference), _name(quantized)),
        bootstrap=bootstrap,
        worst=worst,
        layer_examples=layer_examples,
        progress=progress,
    )
    return replace(report, notes=(*odd, *report.notes), environment=_environment(models))


def _harness_task(task: str, folder: Any, metrics: Any, options: dict[str, Any]) -> HarnessTask:
    from hf_quant.evaluation.harness import HarnessTask

    for option in options:
        if option not in ("num_fewshot", "model_args", "batch_size", "max_length", "limit"):
            raise EvaluationError(f"{task} has {unknown('option', option, ('num_fewshot', 'model_args'))}")
    if folder is not None and not (isinstance(folder, str | PathLike) and Path(folder).is_dir()):
        raise EvaluationError(f"{task}: dataset is a folder with tasks in YAML, or nothing, not {folder!r}")
    names = tuple(metrics) if isinstance(metrics, list | tuple) else (metrics,)
    for name in names:
        if not isinstance(name, str):
            raise EvaluationError(f"{task} has metrics of its own, which go by name: {name!r} is none")
    arguments = options.pop("model_args", None) or {}
    if not isinstance(arguments, Mapping):
        raise EvaluationError(f"model_args is a mapping of names to values, not {arguments!r}")
    given: dict[str, Any] = {name: _count(name, value) for name, value in options.items() if value is not None}
    return HarnessTask(
        task.removeprefix(_HARNESS), None if folder is None else Path(folder), names, model_args=arguments, **given
    )


def _by_harness(
    sources: tuple[Any, Any],
    task: HarnessTask,
    tokenizer: Any,
    device: str,
    dtype: str,
    bootstrap: Bootstrap,
    worst: int,
) -> DropReport:
    from hf_quant.evaluation.harness import evaluate_harness

    models = [_loaded(source, dtype, device) for source in sources]
    for model in models:
        if not hasattr(model, "generation_config") or not model.can_generate():
            raise EvaluationError(
                f"tasks of lm-eval are for causal language models, and {type(model).__name__} is none"
            )
    facts = _facts(sources, models, tokenizer, has_labels=False)
    odd = _notes(models)
    names = (_name(sources[0]), _name(sources[1]))
    report = evaluate_harness(
        models[0], models[1], facts.tokenizer, task, names=names, bootstrap=bootstrap, worst=worst
    )
    return replace(report, notes=(*odd, *report.notes), environment=_environment(models))


def _machinery() -> tuple[Any, Any, Any]:
    # Imported here: the three packages are optional, and take seconds.
    try:
        from hf_quant.evaluation.data import open_rows
        from hf_quant.evaluation.drop import evaluate_pair
        from hf_quant.evaluation.statistics import Bootstrap
    except ImportError as error:
        if error.name not in ("evaluate", "datasets", "scipy"):
            raise
        raise MissingDependency(
            f'the package {error.name!r} is not installed: pip install "hf-quant[evaluate]"'
        ) from error
    return evaluate_pair, open_rows, Bootstrap


def _task(name: str, metrics: Any, options: dict[str, Any]) -> Task:
    task_class = TASKS[name]
    known = [entry.name for entry in fields(task_class) if entry.name != "metrics"]
    for option in options:
        if option not in known:
            raise EvaluationError(f"{name} has {unknown('option', option, known)}")
    several = isinstance(metrics, list | tuple)
    task: Task = task_class(metrics=tuple(metrics) if several else (metrics,), **options)
    return task


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EvaluationError(f"{name} is a whole number from 0 on, not {value!r}")
    return value


def _loaded(source: Any, dtype: str, device: str) -> Any:
    if not isinstance(source, str | PathLike):
        return source
    model = load_model(str(source), dtype=dtype)
    return model if device == "cpu" else model.to(device)


def _notes(models: Sequence[Any]) -> tuple[str, ...]:
    """Remarks for the report if the quantized model is not quantized, or the reference is.

    Raises:
        EvaluationError: The reference is quantized and the other model is not.
    """
    first, second = map(_is_quantized, models)
    if first and not second:
        raise EvaluationError("the reference is quantized and the other model is not: exchange the two")
    if not second:
        return ("Neither model is quantized: two float models were compared.",)
    return ("The reference is quantized, too: drops are those from it, not from a float model.",) if first else ()


def _is_quantized(model: Any) -> bool:
    is_ours = any(type(module).__module__.startswith("hf_quant.") for module in model.modules())
    return is_ours or getattr(model.config, "quantization_config", None) is not None


def _facts(sources: Sequence[Any], models: Sequence[Any], tokenizer: Any, has_labels: bool) -> ModelFacts:
    """Facts about both models, after checking that they can be compared."""
    from hf_quant.evaluation.comparable import require_comparable, require_same_tokenizer

    if tokenizer is None:
        beside = [_tokenizer_beside(source) for source in sources]
        if None not in beside:
            require_same_tokenizer(*beside)
        tokenizer = next((found for found in beside if found is not None), None)
    first, second = (model_facts(model, tokenizer) for model in models)
    require_comparable(first.config, second.config, has_labels)
    lengths = [facts.positions for facts in (first, second) if facts.positions is not None]
    return replace(first, positions=min(lengths, default=None))


def _tokenizer_beside(source: Any) -> Any:
    if not isinstance(source, str | PathLike):
        # Where Transformers has loaded it from; empty for one that was made in memory.
        source = getattr(getattr(source, "config", None), "name_or_path", "")
    return load_tokenizer(str(source)) if source else None


def _name(source: Any) -> str:
    if isinstance(source, str | PathLike):
        return str(source)
    if getattr(source.config, "quantization_config", None) is None:
        return f"{type(source).__name__} {str(source.dtype).removeprefix('torch.')}"
    facts = facts_of(source)
    return f"{facts.model_class} {facts.preset or next(iter(facts.schemes), '')}".strip()


def _environment(models: Sequence[Any]) -> dict[str, str]:
    packages = ("torch", "transformers", "evaluate", "datasets", "hf-quant")
    return {
        "cpu": cpu_name(),
        "device": " and ".join(dict.fromkeys(str(device_of(model)) for model in models)),
        "threads": str(torch.get_num_threads()),
        "native kernels": library.isa() or f"none: {library.absence()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


@cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)
