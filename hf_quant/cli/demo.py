"""``hf-quant demo``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hf_quant.config.presets import PRESETS
from hf_quant.demo.compare import MODELS, Figures, compare


def run(
    model: Annotated[str, typer.Option(help=f"One of: {', '.join(MODELS)}, all.")] = "all",
    quick: Annotated[
        bool, typer.Option("--quick", help="Less text: seconds instead of minutes, coarser quality.")
    ] = False,
) -> None:
    """Load real models in fp32, int8 and int4 and compare size, memory, latency and quality on real text.

    The models come as pip packages, so no hub is needed: MiniLM (BERT) and SmolLM2-135M (Llama).

    For example:

        hf-quant demo

        hf-quant demo --model minilm --quick
    """
    console = Console()
    for name in MODELS if model == "all" else [model]:
        console.print(_table(list(compare(name, quick))))
    console.print("The same for a model of yours (presets: " + ", ".join(PRESETS) + "):\n", highlight=False)
    typer.echo("    import hf_quant  # first: it registers the method with Transformers")
    typer.echo("    from transformers import AutoModelForCausalLM\n")
    typer.echo('    config = hf_quant.HfQuantConfig("int8")  # or "int4"')
    typer.echo('    model = AutoModelForCausalLM.from_pretrained("your/model", quantization_config=config)')


def _table(rows: list[Figures]) -> Table:
    float32 = rows[0]
    table = Table("", "file", "resident", rows[0].latency_name, rows[0].quality_name, title=rows[0].title)
    for row in rows:
        table.add_row(
            row.precision,
            f"{row.file_bytes / 1e6:.1f} MB ({row.file_bytes / float32.file_bytes:.0%})",
            f"{row.resident_bytes / 1e6:.0f} MB ({row.resident_bytes / float32.resident_bytes:.0%})",
            f"{row.latency_ms:.1f} ms ({float32.latency_ms / row.latency_ms:.2f}x)",
            f"{row.quality:.4g}",
        )
    return table
