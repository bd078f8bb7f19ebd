"""``hf-quant train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_quant.cli.pairs import pairs_of
from hf_quant.cli.push import push
from hf_quant.cli.sections import print_section
from hf_quant.config.recipe_files import recipe_names
from hf_quant.config.training_recipe import TrainingRecipe
from hf_quant.data.files import FORMS
from hf_quant.evaluation.file_size import weight_files
from hf_quant.reporting.training.tables import comparison
from hf_quant.workflows.checkpoints import load_model
from hf_quant.workflows.train import train
from hf_quant.workflows.training.examples import TRAINABLE


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            help="What to quantize to, and how to train: a YAML file, or one that comes with hf_quant: "
            f"{', '.join(recipe_names(training=True))}.",
        ),
    ],
    task: Annotated[str, typer.Option("--task", "-t", help=f"One of: {', '.join(TRAINABLE)}.")],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help=f"Training data: {FORMS}.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to save to.")],
    eval_dataset: Annotated[
        str | None, typer.Option(help="Evaluation data. [default: a part of --dataset that is held out]")
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Part of --dataset that is held out where --eval-dataset is not given.")
    ] = 0.1,
    split: Annotated[str | None, typer.Option(help="Split of a dataset's id to train on. [default: train]")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn from it, too: self (the float model), a directory or a repository id."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Steps, in place of the recipe's number of steps or epochs.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate, in place of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of a batch on a device, likewise.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of batches, dropout and what is held out, in place of the recipe's.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Cut texts to so many tokens; of causal-lm, the tokens of a window.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts, if it is not plain.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts, if there are any.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="DATA=MODEL: which class of the model a label of the data is; may be repeated."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Measure what rounding without training loses, too.")
    ] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the checkpoints of an earlier run.")] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Repository id to push to, e.g. user/name-int4.")] = None,
) -> None:
    """Train a float model with quantization in the loop, and save it quantized.

    What the model loses is measured on examples that it was not trained on: by rounding alone, and after training.
    OUTPUT/training.html has curves of the run. Checkpoints are kept beside the output until it is saved, so that the
    same command goes on where an earlier one was stopped.

    For example:

        hf-quant train ./bert -r qat_bert-int8 -t text-classification -d reviews.csv -o ./bert-int8

        hf-quant train ./gpt2 -r qat_gpt2-int4 -t causal-lm -d articles.txt -o ./gpt2-int4 --max-steps 500

        hf-quant train ./llama -r my.yaml -t causal-lm -d wikitext:wikitext-2-raw-v1 --teacher self -o ./llama-int4
    """
    chosen = _with(
        TrainingRecipe.from_file(recipe),
        max_length,
        max_steps=max_steps,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        seed=seed,
    )
    options: dict[str, Any] = {
        "text_column": text_column,
        "pair_column": pair_column,
        "label_column": label_column,
        "labels": pairs_of(label, "--label", "DATA=MODEL", "1=positive") or None,
    }
    result = train(
        model,
        chosen,
        task,
        dataset,
        output,
        eval_dataset=eval_dataset,
        split=split,
        holdout=holdout,
        teacher=teacher,
        compare=compare,
        restart=restart,
        **{name: value for name, value in options.items() if value is not None},
    )
    notes = result.trained.notes
    print_section(f"{result.run.steps:,} steps in {result.run.seconds:.0f} s", notes, [comparison(result.drops)])
    size = sum(file.stat().st_size for file in weight_files(output))
    typer.echo(f"Saved to {output}: {size / 1e6:.1f} MB; training.html has the curves of the run")
    if push_to_hub is not None:
        push(load_model(str(output)), push_to_hub, output)
        typer.echo(f"Pushed to {push_to_hub}")


def _with(recipe: TrainingRecipe, max_length: int | None, **training: Any) -> TrainingRecipe:
    given = {name: value for name, value in training.items() if value is not None}
    return replace(
        recipe,
        training={**recipe.training, **given},
        max_length=recipe.max_length if max_length is None else max_length,
    )
