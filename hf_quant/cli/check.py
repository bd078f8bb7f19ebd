"""``hf-quant check``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hf_quant.workflows.check import check
from hf_quant.workflows.checkpoints import load_model


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a quantized checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every module as JSON instead of a summary.")] = False,
) -> None:
    """Prove on random input that a quantized model computes what its weights stand for; exit status 1 if it does not.

    For example:

        hf-quant check ./smollm2-int4

        hf-quant check user/bert-int8 --json > check.json
    """
    report = check(load_model(model))
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    if not report.is_right:
        raise typer.Exit(1)
