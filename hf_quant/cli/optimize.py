"""``hf-quant optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_quant.hardware.devices import DEVICES
from hf_quant.planner.optimize_for import TARGETS
from hf_quant.portability import TARGETS as PORTABLE_TARGETS
from hf_quant.workflows.deploy import AUTO, CHECKPOINT, deploy


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    hardware: Annotated[str, typer.Option(help=f"What it is to run on: {', '.join(DEVICES)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the checkpoint, or for the export.")],
    target: Annotated[
        str,
        typer.Option(help="What to optimize for: " + "; ".join(f"{name}, {what}" for name, what in TARGETS.items())),
    ] = "speed",
    export: Annotated[
        str,
        typer.Option(
            help=f"What to write: {CHECKPOINT}, or one of {', '.join(PORTABLE_TARGETS)}. {AUTO}: executorch for "
            "mobile, onnx for desktop and edge, else a checkpoint."
        ),
    ] = AUTO,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Run what was exported and compare it with the model. [default: if the runtime is installed]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Quantize a checkpoint by a plan for a device, without data, and save or export it; every choice with its reason.

    For example:

        hf-quant optimize ./smollm2 --hardware raspberry-pi-5 --output ./smollm2-pi

        hf-quant optimize ./smollm2 --hardware host --target memory -o ./smollm2-small

        hf-quant optimize ./bert --hardware mobile -o ./bert-mobile

        hf-quant optimize ./bert --hardware apple-m2 --export onnx -o ./bert-onnx
    """
    typer.echo(str(deploy(model, hardware, output, target=target, export_to=export, verify=verify)))
