"""``hf-quant inspect``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hf_quant.workflows.checkpoints import load_model
from hf_quant.workflows.inspect import inspect


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a checkpoint, quantized or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every module as JSON instead of a table.")] = False,
) -> None:
    """Show each module's scheme, kernel and bytes, and why anything stayed float.

    For example:

        hf-quant inspect ./smollm2-int4

        hf-quant inspect user/bert-int8 --json > report.json
    """
    report = inspect(load_model(model))
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
