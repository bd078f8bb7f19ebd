"""``hf-quant benchmark``."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_quant.cli.outputs import Card, Outputs, check_outputs, write_outputs
from hf_quant.cli.sections import print_section
from hf_quant.data.files import FORMS, open_texts
from hf_quant.errors import ConfigError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.reporting.tables.speed import speed_section
from hf_quant.workflows.benchmark import benchmark


def run(
    reference: Annotated[str, typer.Argument(help="Directory or repository id of the reference, usually float.")],
    quantized: Annotated[str, typer.Argument(help="Directory or repository id of the quantized checkpoint.")],
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size; may be repeated. [default: 1, and 8 for encoders]", show_default=False),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(help="Tokens of a text; may be repeated. [default: 128, and 32 for encoders]", show_default=False),
    ] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens that language models generate.")] = 32,
    texts: Annotated[
        str | None, typer.Option(help=f"Texts, read as one batch instead of random tokens: {FORMS}.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of --texts, if it is not plain.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each model.")] = 5,
    seconds: Annotated[float, typer.Option(help="Least time of a turn.")] = 0.5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Dtype that models are loaded in: auto, float32, bfloat16 or float16.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: torch's]", show_default=False)] = None,
    output: Outputs = None,
    card: Card = False,
) -> None:
    """Measure a quantized model beside its reference: size, memory, latency, throughput, CPU time, joules.

    Each is loaded in a process of its own, and they have their turns one after the other. Run it on a machine that does
    nothing else.

    For example:

        hf-quant benchmark ./smollm2 ./smollm2-int4

        hf-quant benchmark ./bert ./bert-int8 --batch 1 --batch 8 --length 128 --output report.html --card
    """
    check_outputs(output, card, quantized)
    if text_column is not None and texts is None:
        raise ConfigError("--text-column is about --texts: give that, too")
    report = benchmark(
        reference,
        quantized,
        None if texts is None else open_texts(texts, text_column),
        batch_sizes=batch or None,
        lengths=length or None,
        new_tokens=new_tokens,
        rounds=rounds,
        seconds=seconds,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    show(report)
    write_outputs(report, output, card, quantized)


def show(report: BenchmarkReport) -> None:
    """Print the report of a benchmark."""
    section = speed_section(report)
    print_section(None, section.paragraphs, section.tables)
