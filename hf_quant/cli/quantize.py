"""``hf-quant quantize``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hf_quant.calibration.data import Calibration
from hf_quant.calibration.resume import forget
from hf_quant.cli.pairs import pairs_of
from hf_quant.cli.push import push
from hf_quant.config.presets import PRESETS
from hf_quant.config.recipe import Recipe
from hf_quant.config.recipe_files import recipe_names
from hf_quant.data.files import FORMS
from hf_quant.errors import ConfigError, EvaluationError
from hf_quant.modules.swap import quantized_modules
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.workflows.check import check
from hf_quant.workflows.checkpoints import check_output, copy_tokenizer, load_model, load_tokenizer
from hf_quant.workflows.inspect import inspect
from hf_quant.workflows.quantize import quantize

_PRESETS = ", ".join(f"{name} ({preset.summary})" for name, preset in PRESETS.items())


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    preset: Annotated[
        str | None, typer.Argument(help=f"One of: {_PRESETS}. Or give --recipe instead.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory to save to.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="What to quantize to, and by which algorithms: a YAML file, or one that comes with hf_quant: "
            f"{', '.join(recipe_names())}.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help=f"Texts to calibrate on: {FORMS}.",
        ),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts of --data, if it is not plain.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Sequences to calibrate on. [default: the recipe's, or 128]")
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="Most tokens of a sequence. [default: the recipe's, or 512]")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Folder to keep the progress of a calibrated run in, and to go on from. [default: .NAME.progress "
            "beside the output]",
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the progress of an earlier run.")] = False,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            help="Name of a module to keep float, also with ranges, 'layers.{0-3,7}'; may be repeated.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--override",
            help="PATTERN=PRESET for modules that need another preset, '*.layers.{0-3,7}.*=int8'; may be repeated.",
        ),
    ] = None,
    rotation: Annotated[
        int | None,
        typer.Option(help="Rotate weights in blocks of this size, or in none (0). [default: the preset's]"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of what stays float: auto, float32, bfloat16 or float16.")] = "auto",
    push_to_hub: Annotated[str | None, typer.Option(help="Repository id to push to, e.g. user/name-int4.")] = None,
    checks: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Prove the result on random input; exit status 1 if it is wrong."),
    ] = True,
) -> None:
    """Quantize a checkpoint and save or push the result: by a preset, or by a recipe, with or without data.

    Without data, it is quantized while it is loaded, one tensor at a time. With data, it is loaded and quantized block
    by block; what was done is kept beside the output until everything is, so that the same command goes on where an
    earlier one was stopped.

    For example:

        hf-quant quantize ./smollm2 int4 --output ./smollm2-int4

        hf-quant quantize bert-base-uncased int8 -o ./bert-int8 --keep-float classifier

        hf-quant quantize ./llama int4 -o ./out --override "*.down_proj=int8" --push-to-hub user/llama-int4

        hf-quant quantize ./llama --recipe llama-int4-balanced --data texts.txt -o ./llama-int4

        hf-quant quantize ./bert int8-static --data reviews.csv --text-column review --samples 64 -o ./bert-int8
    """
    if output is None and push_to_hub is None:
        raise ConfigError("nowhere to put the result: give --output DIRECTORY, --push-to-hub ID, or both")
    if output is not None:
        check_output(output, model)
    overrides = pairs_of(override, "--override", "PATTERN=PRESET", "*.down_proj=int8")
    config = _config(preset, recipe, overrides, keep_float or [], rotation)
    sizes: dict[str, Any] = {"samples": samples, "sequence_length": sequence_length, "text_column": text_column}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if data is None:
        if sizes or resume is not None or restart:
            raise ConfigError("--samples, --sequence-length, --text-column, --resume and --restart need --data, too")
        quantized = load_model(model, config, dtype)
    else:
        sizes = {**(config.recipe.calibration if config.recipe is not None else {}), **sizes}
        config.calibration = Calibration(data, load_tokenizer(model), **sizes)
        if resume is None and output is not None:
            resume = output.absolute().parent / f".{output.absolute().name}.progress"
        quantized = quantize(load_model(model, dtype=dtype), config, resume=resume, restart=restart)
    typer.echo(str(inspect(quantized)))
    is_right = not checks or _check(quantized)
    if output is not None:
        quantized.save_pretrained(output)
        copy_tokenizer(model, output)
        typer.echo(f"Saved to {output}")
    if push_to_hub is not None:
        push(quantized, push_to_hub, output)
        typer.echo(f"Pushed to {push_to_hub}")
    if resume is not None:
        forget(resume)
    _print_errors(quantized.hf_quantizer.block_errors)
    if not is_right:
        raise typer.Exit(1)


def _config(
    preset: str | None, named: str | None, overrides: dict[str, str], keep_float: list[str], rotation: int | None
) -> HfQuantConfig:
    if (preset is None) == (named is None):
        raise ConfigError(f"give a preset ({', '.join(PRESETS)}) or --recipe with a name or a file, one of them")
    if named is None:
        return HfQuantConfig(preset, overrides=overrides, modules_to_not_convert=keep_float or None, rotation=rotation)
    recipe = Recipe.from_file(named)
    # The last pattern that matches wins: those of the command line come after all of the recipe's.
    others = {pattern: value for pattern, value in recipe.overrides.items() if pattern not in overrides}
    kept = dict.fromkeys([*recipe.modules_to_not_convert, *keep_float])
    turned = recipe.rotation if rotation is None else rotation
    recipe = replace(recipe, overrides={**others, **overrides}, modules_to_not_convert=tuple(kept), rotation=turned)
    return HfQuantConfig.from_recipe(recipe)


def _check(quantized: Any) -> bool:
    if not any(quantized_modules(quantized)):
        return True
    try:
        report = check(quantized)
    except EvaluationError as error:
        typer.echo(f"Not checked: {error}")
        return True
    typer.echo(str(report))
    return report.is_right


def _print_errors(errors: dict[str, float]) -> None:
    if not errors:
        return
    table = Table("block", "relative error", title="What each block adds to the error, on calibration data")
    for name, error in errors.items():
        table.add_row(name, f"{error:.2e}")
    Console().print(table)
