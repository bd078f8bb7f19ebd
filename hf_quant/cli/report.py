"""``hf-quant report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_quant.errors import ConfigError
from hf_quant.reporting.markdown import to_markdown
from hf_quant.reporting.write import merged, read_report, write_report


def run(
    files: Annotated[list[Path], typer.Argument(help="JSON files that evaluate and benchmark wrote.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help="File to write: .html, .md or .json; may be repeated. Else Markdown is shown."
        ),
    ] = None,
) -> None:
    """Put evaluations and benchmarks of one or several quantized models together, as one page.

    For example:

        hf-quant report int8.json int8-speed.json int4.json int4-speed.json --output report.html

        hf-quant report int8.json
    """
    if set(files) & set(output or ()):
        raise ConfigError("--output would take the place of a file that is read: give another name")
    report = merged(*map(read_report, files))
    if not output:
        typer.echo(to_markdown(report))
    for file in output or ():
        typer.echo(f"Wrote {write_report(file, report)}")
