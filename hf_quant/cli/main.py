"""The command ``hf-quant``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape

from hf_quant.cli import (
    benchmark,
    check,
    convert_checkpoint,
    demo,
    evaluate,
    export,
    hardware,
    inspect,
    optimize,
    plan,
    quantize,
    report,
    train,
)
from hf_quant.errors import HfQuantError

app = typer.Typer(
    help="Quantize Hugging Face Transformers models: INT8, INT4 and mixed plans.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("quantize")(quantize.run)
app.command("convert-checkpoint")(convert_checkpoint.run)
app.command("plan")(plan.run)
app.command("optimize")(optimize.run)
app.command("train")(train.run)
app.command("evaluate")(evaluate.run)
app.command("benchmark")(benchmark.run)
app.command("report")(report.run)
app.command("export")(export.run)
app.command("inspect")(inspect.run)
app.command("check")(check.run)
app.command("hardware")(hardware.run)
app.command("demo")(demo.run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that names its fix is shown as one line, not as a traceback.

    Args:
        arguments: The command and its arguments; None: those that the program was called with.
    """
    try:
        app(arguments, prog_name="hf-quant")
    except (HfQuantError, OSError) as error:
        # One line however narrow the terminal is, for logs that are searched.
        text = " ".join(str(error).split())
        Console(stderr=True).print(
            f"[bold red]{type(error).__name__}[/]: {escape(text)}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
