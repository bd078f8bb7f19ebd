"""``hf-quant evaluate``."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated, Any

import typer
import yaml

from hf_quant.cli.outputs import Card, Outputs, check_outputs, write_outputs
from hf_quant.cli.pairs import pairs_of
from hf_quant.cli.sections import print_section
from hf_quant.data.files import FORMS
from hf_quant.errors import ConfigError
from hf_quant.evaluation import METRICS, TASKS
from hf_quant.evaluation.gate import Limit
from hf_quant.evaluation.report import DropReport
from hf_quant.reporting.markdown import to_markdown
from hf_quant.reporting.report import Report
from hf_quant.reporting.tables.accuracy import accuracy_section
from hf_quant.workflows.checkpoints import check_source, load_tokenizer
from hf_quant.workflows.evaluate import evaluate_drop

GATE_FAILED = 3
"""Exit code of a run whose drop is above the limit; 1 is for errors, 2 for options that do not exist."""


def run(
    reference: Annotated[str, typer.Argument(help="Directory or repository id of the reference, usually float.")],
    quantized: Annotated[str, typer.Argument(help="Directory or repository id of the quantized checkpoint.")],
    task: Annotated[str, typer.Option("--task", "-t", help=f"One of: {', '.join(TASKS)}; or lm-eval:NAME.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help=f"Data: {FORMS}. Of lm-eval, a folder with tasks of your own in YAML, or nothing.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset's id. [default: test, or validation]", show_default=False)
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help=f"May be repeated; the first is the one that --max-drop is about. Without a network: "
            f"{', '.join(METRICS)}. Others are loaded by evaluate.load. [default: the task's own]",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help=f"Fail, with exit code {GATE_FAILED}, if more is lost: 1% of the reference's value, or 0.5pt, points, "
            "which are hundredths of metrics that are parts of 1, such as accuracy, and units of others."
        ),
    ] = None,
    confident: Annotated[
        bool, typer.Option("--confident", help="Hold the upper end of the interval against --max-drop, not the drop.")
    ] = False,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Compare the output of each module, too, and say where errors grow.")
    ] = False,
    layer_examples: Annotated[int, typer.Option(help="Examples that modules are compared on.")] = 8,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the texts (words, contexts), if it is not plain.")
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts, if there are any.")] = None,
    question_column: Annotated[str | None, typer.Option(help="Column of the questions.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels (tags, answers, scores).")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="DATA=MODEL: which class of the models a label of the data is; may be repeated."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Cut texts to so many tokens; of causal-lm, the tokens of a window.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens between the starts of windows (causal-lm), or shared by them (question-answering)."),
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples in the prompt (lm-eval).")] = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE: argument of lm-eval's model class, such as add_bos_token=true; may be repeated."
        ),
    ] = None,
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos",
            help="Begin each window with the bos token (causal-lm). [default: if the tokenizer does so with texts]",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Sequences at once. [default: 16, and 1 for causal-lm]", show_default=False),
    ] = None,
    max_examples: Annotated[int | None, typer.Option(help="Use so many rows at most, drawn at random.")] = None,
    worst: Annotated[int, typer.Option(help="Most examples to list of those that suffer most.")] = 10,
    confidence: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of --max-examples.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Directory or repository id of the tokenizer. [default: beside REFERENCE]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Dtype that models are loaded in: auto, float32, bfloat16 or float16.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print it as Markdown, such as for a pull request.")
    ] = False,
    output: Outputs = None,
    card: Card = False,
) -> None:
    """Say how much a quantized model has lost on a task, and fail if that is too much.

    Both models answer the same examples. Each metric's drop has an interval over pairs of answers; answers that
    flipped are counted and tested; the output distributions and the examples that suffer most are shown.

    Tasks named lm-eval:NAME are those of the package lm-eval, run by its own model class.

    Exit codes: 0, all is well; 1, an error; 2, a wrong option; 3, more was lost than --max-drop allows.

    For example:

        hf-quant evaluate ./bert ./bert-int8 --task text-classification --dataset reviews.csv --max-drop 0.5pt

        hf-quant evaluate ./llama ./llama-int4 --task causal-lm --dataset articles.txt --max-drop 1% --confident

        hf-quant evaluate ./bert ./bert-int4 -t question-answering -d squad --per-layer -o report.html --card
    """
    check_outputs(output, card, quantized)
    if as_json and as_markdown:
        raise ConfigError("--json and --markdown both say what to print: give one, and --output for a file")
    if confident and max_drop is None:
        raise ConfigError("--confident is about --max-drop: give that, too")
    limit = None if max_drop is None else Limit.parse(max_drop)
    arguments = pairs_of(model_arg, "--model-arg", "NAME=VALUE", "add_bos_token=true")
    options: dict[str, Any] = {
        "text_column": text_column,
        "pair_column": pair_column,
        "question_column": question_column,
        "label_column": label_column,
        "labels": pairs_of(label, "--label", "DATA=MODEL", "1=positive") or None,
        "stride": stride,
        "num_fewshot": num_fewshot,
        "bos": bos,
        "model_args": {name: _value(value) for name, value in arguments.items()} or None,
    }
    report = evaluate_drop(
        reference,
        quantized,
        task,
        dataset,
        split=split,
        metrics=metric or (),
        tokenizer=None if tokenizer is None else _tokenizer(tokenizer),
        max_examples=max_examples,
        batch_size=batch_size,
        max_length=max_length,
        per_layer=layer_examples if per_layer else 0,
        worst=worst,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        device=device,
        dtype=dtype,
        **{name: value for name, value in options.items() if value is not None},
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    elif as_markdown:
        typer.echo(to_markdown(Report((report,))))
    else:
        show(report)
    # What is printed for a program has to stay what it is.
    with contextlib.redirect_stdout(sys.stderr if as_json or as_markdown else sys.stdout):
        write_outputs(report, output, card, quantized)
    if limit is not None:
        _judge(limit, report, confident)


def show(report: DropReport) -> None:
    """Print the report of an evaluation, without its last table, which says how it was done."""
    section = accuracy_section(report)
    print_section(section.title, section.paragraphs, section.tables[:-1])


def _judge(limit: Limit, report: DropReport, confident: bool) -> None:
    verdict = limit.check(report, confident=confident)
    if verdict.passed:
        typer.echo(f"Passed: {verdict.message}", err=True)
        return
    typer.secho(f"Failed: {verdict.message}", fg="red", err=True)
    raise typer.Exit(GATE_FAILED)


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--model-arg: {text!r} is no number, text or list: {error}") from error


def _tokenizer(source: str) -> Any:
    check_source(source)
    found = load_tokenizer(source)
    if found is None:
        raise ConfigError(f"there is no tokenizer in {source}: give the directory of the float checkpoint")
    return found
