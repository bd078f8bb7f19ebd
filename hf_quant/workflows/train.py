"""`hf_quant.train`: from a float checkpoint to a quantized one whose accuracy was trained."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.errors import ConfigError, MissingDependency
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from hf_quant.evaluation.models import model_facts
from hf_quant.evaluation.report import DropReport
from hf_quant.opening.open import opened
from hf_quant.qat.schedule import Schedule
from hf_quant.quantizing.resolve import resolve
from hf_quant.registry import unknown
from hf_quant.reporting.training.page import write_page
from hf_quant.reporting.training.run import TrainingRun, write_run
from hf_quant.training.prepared import has_static_inputs
from hf_quant.workflows.checkpoints import check_output, check_source, copy_tokenizer, load_model, load_tokenizer
from hf_quant.workflows.evaluate import evaluate_drop
from hf_quant.workflows.quantize import quantize
from hf_quant.workflows.training.arguments import arguments_of, callback_of, quantization_of, steps_of
from hf_quant.workflows.training.examples import check_task, examples_of
from hf_quant.workflows.training.folder import open_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Result of `train`: where the model is saved, what was logged, and what the model loses.

    Args:
        output: Directory of the quantized checkpoint, with ``training.json`` and, with matplotlib, ``training.html``.
        run: The training run with what it logged.
        rounded: Report of what the model loses by rounding alone; None where that was not measured.
        trained: Report of what the model loses after training.
    """

    output: Path
    run: TrainingRun
    rounded: DropReport | None
    trained: DropReport

    @property
    def drops(self) -> list[DropReport]:
        """Reports of what the model loses: by rounding alone, if measured, then after training."""
        return [*([] if self.rounded is None else [self.rounded]), self.trained]


def train(
    model: str,
    recipe: TrainingRecipe | str | Path,
    task: str,
    dataset: Any,
    output: str | Path,
    *,
    eval_dataset: Any = None,
    split: str | None = None,
    holdout: float = 0.1,
    teacher: Any = None,
    compare: bool = True,
    restart: bool = False,
    progress: bool = True,
    **options: Any,
) -> Trained:
    """Train a float checkpoint with quantization in the loop, and save it quantized.

    Checkpoints lie in ``.NAME.training`` beside the output until that is saved: the same call goes on from the last
    one, and ends with the bits that it would have ended with.

    Args:
        model: Directory or repository id of a float checkpoint.
        recipe: Training recipe, a YAML file with one, or the name of one of `recipe_files`: what to quantize to and how
            to train.
        task: Name of the task: ``text-classification`` or ``causal-lm``.
        dataset: Data to train on, in a form that `evaluate_drop` takes.
        output: Directory to save the quantized checkpoint to.
        eval_dataset: Data to evaluate on, in a form that `evaluate_drop` takes; None: a part of `dataset` is held out.
        split: Split of a ``DatasetDict`` or of a dataset on the Hub; None: ``train``.
        holdout: Share of `dataset`, above 0 and below 1, that is held out to evaluate on, drawn by the recipe's seed.
        teacher: Teacher in place of the recipe's: ``"self"``, a directory, a repository id, or a model; None: the
            recipe's.
        compare: Whether what rounding without training loses is measured, too. Static inputs have no ranges without
            training: with these, only the trained model is measured.
        restart: Throw away the checkpoints of an earlier run.
        progress: Show progress bars.
        **options: Options of the task, such as ``text_column``, as `evaluate_drop` takes them.

    Raises:
        ConfigError: The recipe, the task or the output is not usable, or there are checkpoints of another run.
        EvaluationError: The data is not usable.
        UnsupportedModel: The checkpoint is quantized already.
        TrainingError: Training went wrong; checkpoints stay.
    """
    from transformers import Trainer, set_seed  # late: whoever does not train need not wait for them

    recipe = recipe if isinstance(recipe, TrainingRecipe) else TrainingRecipe.from_file(recipe)
    output = Path(output)
    check_task(task)
    check_source(model)
    check_output(output, model)
    teacher = teacher if teacher is not None else recipe.distillation.get("teacher")
    # Options are wrong before anything is loaded.
    schedule = callback_of(recipe, None if teacher is None else "self").schedule
    if recipe.max_length is not None:
        options.setdefault("max_length", recipe.max_length)
    chosen = _task(task, options)
    seed = int(recipe.training.get("seed", 42))
    rows, held_out = _parts(dataset, eval_dataset, split, holdout, seed)
    set_seed(seed)
    loaded = load_model(model, dtype="float32")
    config = quantization_of(recipe)
    if getattr(loaded.config, "quantization_config", None) is not None:
        raise ConfigError(f"{model} is quantized already: give the float checkpoint that it was made of")
    facts = model_facts(loaded, load_tokenizer(model))
    examples, others = (examples_of(chosen, part, facts) for part in (rows, held_out))
    steps = steps_of(recipe, len(examples.rows))
    folder = output.absolute().parent / f".{output.absolute().name}.training"
    last = open_folder(
        folder,
        {
            "model": checkpoint_fingerprint(Path(model)) if Path(model).is_dir() else model,
            "data": f"{rows.describe().fingerprint} {held_out.describe().fingerprint}",
            "task": _facts_of(chosen),
            "recipe": json.dumps(recipe.to_dict(), sort_keys=True),
            "teacher": str(teacher) if teacher is None or isinstance(teacher, str) else type(teacher).__name__,
        },
        restart,
    )
    rounded = None
    with opened(loaded):
        is_static = has_static_inputs(resolve(loaded, config))
    if compare and not is_static:
        alone = quantize(load_model(model, dtype="float32"), config, progress=progress)
        rounded = evaluate_drop(
            model, alone, task, held_out.dataset, tokenizer=facts.tokenizer, progress=progress, **options
        )
        del alone
    trainer = Trainer(
        loaded,
        arguments_of(recipe, folder, steps, progress),
        train_dataset=examples.rows,
        eval_dataset=others.rows,
        data_collator=examples.collator,
        processing_class=facts.tokenizer,
        compute_metrics=others.metrics,
        callbacks=[callback_of(recipe, _teacher(teacher))],
    )
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=last)
    seconds = time.perf_counter() - began
    loaded.save_pretrained(output)
    copy_tokenizer(model, output)
    trained = evaluate_drop(
        model, str(output), task, held_out.dataset, tokenizer=facts.tokenizer, progress=progress, **options
    )
    run = TrainingRun(
        model, trainer.state.global_step, seconds, trainer.state.log_history, _marks(schedule), recipe.to_dict()
    )
    result = Trained(output, run, rounded, trained)
    _write(result)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _task(name: str, options: Mapping[str, Any]) -> Any:
    task_class = TASKS[name]
    known = [entry.name for entry in fields(task_class) if entry.name != "metrics"]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has {unknown('option', option, known)}")
    return task_class(**options)


def _facts_of(task: Any) -> str:
    """Text that identifies a task and the options that its examples depend on."""
    options = {name: value for name, value in task.options().items() if name != "batch_size"}
    return f"{task.name} {json.dumps(options)}"


def _parts(dataset: Any, eval_dataset: Any, split: str | None, holdout: float, seed: int) -> tuple[Any, Any]:
    try:
        from hf_quant.evaluation.data import Rows, open_rows
    except ImportError as error:
        raise MissingDependency(
            f'the package {error.name!r} is not installed: pip install "hf-quant[evaluate]"'
        ) from error
    rows = open_rows(dataset, split, training=True)
    if eval_dataset is not None:
        return rows, open_rows(eval_dataset)
    if not isinstance(holdout, float) or not 0 < holdout < 1 or not 1 <= round(holdout * len(rows)) < len(rows):
        raise ConfigError(
            f"{holdout!r} of {len(rows)} examples cannot be held out: give a part between 0 and 1, or data to evaluate "
            "on (--eval-dataset)"
        )
    parts = rows.dataset.train_test_split(test_size=holdout, seed=seed)
    return Rows(parts["train"], rows.name, rows.split), Rows(parts["test"], f"{rows.name}, held out", rows.split)


def _teacher(teacher: Any) -> Any:
    return load_model(teacher, dtype="float32") if isinstance(teacher, str) and teacher != "self" else teacher


def _marks(schedule: Schedule) -> dict[int, str]:
    """Steps at which the training schedule changes, to what changes there, in words."""
    marks = {schedule.warmup_steps: "rounding begins"} if schedule.warmup_steps else {}
    marks |= {step: f"{bits} bits" for step, bits in schedule.bits.items()}
    if schedule.freeze_scales_at is not None:
        marks[schedule.freeze_scales_at] = "scales frozen"
    return marks


def _write(result: Trained) -> None:
    write_run(result.run, result.output / "training.json")
    try:
        write_page(result.output / "training.html", result.run, result.drops)
    except MissingDependency as error:
        logger.warning("training.html was not written: %s", error)
