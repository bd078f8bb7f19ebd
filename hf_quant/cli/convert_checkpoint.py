"""``hf-quant convert-checkpoint``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_quant.workflows.convert_checkpoint import convert_checkpoint


def run(
    source: Annotated[
        str, typer.Argument(help="Folder or repository id of a checkpoint of GPTQ, AWQ, compressed-tensors or NF4.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder to write to.")],
) -> None:
    """Write another program's quantized checkpoint as one of hf_quant, bit for bit, a module at a time."""
    console = Console()
    with console.status("reading") as status:
        config = convert_checkpoint(source, output, lambda module: status.update(f"converting {module}"))
    assert config.plan is not None
    for scheme, count in Counter(str(scheme) for scheme in config.plan.modules.values()).items():
        console.print(f"{count} modules {scheme}", highlight=False)
    console.print(f"written to {output}", highlight=False, soft_wrap=True)
