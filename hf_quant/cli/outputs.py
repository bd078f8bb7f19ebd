"""Where commands put their reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hf_quant.errors import ConfigError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.report import DropReport
from hf_quant.hub.card import write_model_card
from hf_quant.reporting.write import WRITERS, write_report

Outputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--output", "-o", help="File to write the report to: .json, .md, or .html (a page with plots); may be repeated."
    ),
]
"""Type of a command's option whose value goes to `write_outputs`."""

Card = Annotated[
    bool, typer.Option("--card", help="Put the figures on the model card of the quantized checkpoint, a directory.")
]
"""Type of a command's option whose value goes to `write_outputs`."""


def check_outputs(outputs: Sequence[Path] | None, card: bool, quantized: str) -> None:
    """Raise ConfigError if results could not be written; called before long work."""
    for file in outputs or ():
        if file.suffix not in WRITERS:
            raise ConfigError(f"--output takes a file that ends in {', '.join(WRITERS)}, not {file}")
        require_writable(file, "--output")
    if card and not Path(quantized).is_dir():
        raise ConfigError(f"--card needs the directory of the quantized checkpoint, not {quantized}")


def require_writable(file: Path, option: str) -> None:
    """Raise ConfigError if a file, given as an option, could not be written; called before long work."""
    nearest = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"{option} {file} cannot be written: give a file in a directory that you may write to")


def write_outputs(
    report: DropReport | BenchmarkReport, outputs: Sequence[Path] | None, card: bool, quantized: str
) -> None:
    """Write a report to files and the model card, and say so.

    Args:
        report: Report of the command.
        outputs: Files to write.
        card: Whether to extend the model card.
        quantized: Directory of the quantized checkpoint, whose card is extended.
    """
    for file in outputs or ():
        typer.echo(f"Wrote {write_report(file, report)}")
    if card:
        drop, benchmark = (report, None) if isinstance(report, DropReport) else (None, report)
        typer.echo(f"Wrote {write_model_card(quantized, drop, benchmark)}")
