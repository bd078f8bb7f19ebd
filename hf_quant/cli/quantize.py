"""``hf-quant quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError
from hf_quant.integration.config import HfQuantConfig
from hf_quant.workflows.checkpoints import copy_tokenizer, load_model
from hf_quant.workflows.inspect import inspect

_PRESETS = ", ".join(f"{name} ({preset.summary})" for name, preset in PRESETS.items())


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    preset: Annotated[str, typer.Argument(help=f"One of: {_PRESETS}.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Directory to save to.")] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option("--keep-float", help="Name of a module to keep float; may be repeated.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--override", help="PATTERN=PRESET for modules that need another preset; may be repeated."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of what stays float: auto, float32, bfloat16 or float16.")] = "auto",
    push_to_hub: Annotated[str | None, typer.Option(help="Repository id to push to, e.g. user/name-int4.")] = None,
) -> None:
    """Quantize a checkpoint while loading it, one tensor at a time, and save or push the result.

    For example:

        hf-quant quantize ./smollm2 int4 --output ./smollm2-int4

        hf-quant quantize bert-base-uncased int8 -o ./bert-int8 --keep-float classifier

        hf-quant quantize ./llama int4 -o ./out --override "*.down_proj=int8" --push-to-hub user/llama-int4
    """
    if output is None and push_to_hub is None:
        raise ConfigError("nowhere to put the result: give --output DIRECTORY, --push-to-hub ID, or both")
    overrides = dict(_split(entry) for entry in override or [])
    config = HfQuantConfig(preset, overrides=overrides, modules_to_not_convert=keep_float)
    quantized = load_model(model, config, dtype)
    typer.echo(str(inspect(quantized)))
    if output is not None:
        quantized.save_pretrained(output)
        copy_tokenizer(model, output)
        typer.echo(f"Saved to {output}")
    if push_to_hub is not None:
        quantized.push_to_hub(push_to_hub)
        typer.echo(f"Pushed to {push_to_hub}")


def _split(entry: str) -> tuple[str, str]:
    pattern, separator, preset = entry.rpartition("=")
    if not separator or not pattern:
        raise ConfigError(f"--override takes PATTERN=PRESET, such as '*.down_proj=int8', not {entry!r}")
    return pattern, preset
