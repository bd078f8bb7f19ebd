"""``hf-quant export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hf_quant.cli.pairs import pairs_of
from hf_quant.errors import ConfigError
from hf_quant.export import TARGETS
from hf_quant.portability import TARGETS as PORTABLE_TARGETS
from hf_quant.workflows.checkpoints import load_model, load_tokenizer
from hf_quant.workflows.export import export
from hf_quant.workflows.portability import portability


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a quantized checkpoint.")],
    target: Annotated[
        str,
        typer.Argument(
            help=f"One of: {', '.join(TARGETS)}. With --report-only also: "
            f"{', '.join(name for name in PORTABLE_TARGETS if name not in TARGETS)}."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory for the files: empty, or of an earlier export."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only say which modules the target takes; exit status 1 if not all.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report, or the manifest, as JSON.")] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="Name of a refusal that is not to count, such as rotation; may be repeated."),
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Run what was written and compare it with the model. [default: if the runtime is installed]",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: an option of the target; may be repeated.")
    ] = None,
) -> None:
    """Write a quantized checkpoint for another program, with the same codes; first say which modules it takes.

    For example:

        hf-quant export ./smollm2-int8 compressed-tensors --output ./smollm2-ct

        hf-quant export ./smollm2-int4 gguf --report-only
    """
    accepted = accept or []
    if report_only:
        PORTABLE_TARGETS[target]  # an unknown one is told before the model is loaded
        report = portability(load_model(model), target, accepted)
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else str(report))
        if not report.is_portable:
            raise typer.Exit(1)
        return
    if output is None:
        raise ConfigError("nowhere to put the files: give --output DIRECTORY, or --report-only")
    TARGETS[target]
    options = pairs_of(option, "--option", "NAME=VALUE", "max_shard_size=2GB")
    loaded = load_model(model)
    found = export(loaded, target, output, tokenizer=load_tokenizer(model), accept=accepted, verify=verify, **options)
    typer.echo(json.dumps(found.manifest, indent=1) if as_json else str(found))
