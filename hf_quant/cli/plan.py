"""``hf-quant plan``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hf_quant.calibration.data import Calibration
from hf_quant.cli.pairs import pairs_of
from hf_quant.cli.plan_options import check_files, choices_of, default_losses, file_name, pass_of
from hf_quant.cli.processes import several_processes
from hf_quant.cli.sections import print_section
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.data.files import FORMS
from hf_quant.errors import ConfigError
from hf_quant.planner.options import Judge, Offer, Search
from hf_quant.planner.page.write import write_plan_page
from hf_quant.planner.quality import QUALITIES
from hf_quant.planner.report import SearchReport
from hf_quant.planner.search import OPTIONS, STRATEGIES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.portability import TARGETS
from hf_quant.reporting.json_file import write_text
from hf_quant.workflows.checkpoints import load_model, load_tokenizer
from hf_quant.workflows.labelled import is_classifier, labelled_examples
from hf_quant.workflows.measured_plans import steps_of
from hf_quant.workflows.plan import search_plan, search_space

_MOST_ROWS = 40
"""Most modules that are printed; the report has all."""

_EVALUATIONS = OPTIONS["evolutionary"]["evaluations"]
_SEQUENCES, _EXAMPLES = 32, 1024
"""Number of sequences read by default from texts, and of examples from labelled texts, which are short."""


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    budget: Annotated[
        list[str],
        typer.Option(
            "--budget",
            "-b",
            help='"350MB", "4.5bpw" (bits per weight), "25%" of the float file, "20ms/token", "drop<=1%", or several '
            'at once: "350MB,20ms". Repeated: a plan for each, from one analysis.',
        ),
    ],
    data: Annotated[
        str,
        typer.Option("--data", "-d", help=f"Texts: {FORMS}."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file for the plan, a recipe.")] = Path(
        "plan.yaml"
    ),
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="File for what was found: .json for programs (a list, for several budgets), .html for a page with "
            "a heat map of sensitivities, the bits of each module and the front of size and loss, .png for that front; "
            "may be repeated."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Carry the plan out by the transforms and the solver of this recipe, such as AWQ and GPTQ, rather "
            "than by rounding to nearest; the plan's file then has them, too. A YAML file, or a name such as "
            "llama-int4-balanced.",
        ),
    ] = None,
    losses: Annotated[
        Path | None,
        typer.Option(
            help="Keep the analysis in this file, and take it from there: for several budgets. [default: a file beside "
            "the output, .NAME.HASH.losses.json, of this model, data and measure]"
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"One of: {', '.join(STRATEGIES)}.")] = Search.strategy,
    measure: Annotated[str, typer.Option(help=f"Of sensitivity, one of: {', '.join(MEASURES)}.")] = Judge.measure,
    metric: Annotated[
        str, typer.Option(help=f"What measured plans are judged by, one of: {', '.join(QUALITIES)}.")
    ] = Judge.metric,
    hardware: Annotated[
        str | None, typer.Option(help="Keep to what this profile takes; see hf-quant hardware --list.")
    ] = None,
    kernels: Annotated[
        Path | None,
        typer.Option(
            help="Times of the machine's kernels, of hf-quant hardware --measure; needed for others than this."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of the pass whose milliseconds are limited. [default: 1; 128 of models that read only]"
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=0, help="Tokens before them, in the cache of models that write. [default: 512]")
    ] = None,
    fused: Annotated[
        bool, typer.Option(help="One scheme for linears of one input, such as query, key and value.")
    ] = Offer.fused,
    portable_to: Annotated[
        str | None,
        typer.Option(
            help=f"Offer only what all of these targets take, as in onnx,vllm. Known: {', '.join(TARGETS)}.",
            show_default=False,
        ),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=PRESET, PATTERN=float, or several, PATTERN=int8,float: what modules are to have; may be "
            "repeated."
        ),
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="Schemes that modules may not have, in the same form; may be repeated.")
    ] = None,
    measurements: Annotated[
        int, typer.Option(min=0, help="Most plans to measure after the search.")
    ] = Judge.measurements,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help=f"Most plans that {', '.join(OPTIONS)} measure. [default: {_EVALUATIONS}]")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Sequences; a quarter of them is kept to measure on. [default: 32, and 1024 examples of classifiers]"
        ),
    ] = None,
    sequence_length: Annotated[int, typer.Option(help="Most tokens of a sequence.")] = 256,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts of --data, if it is not plain.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of the labels of a classifier's data, likewise.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="DATA=MODEL: which class of the model a label of the data is; may be repeated."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a dataset's id with labels. [default: train]")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the data, and of strategies that draw.")] = 0,
) -> None:
    """Find the schemes that lose least within a budget, and measure what they lose.

    For language models, and for classifiers with labelled texts. The plan is a recipe: `hf-quant quantize MODEL
    --recipe plan.yaml` carries it out, and so does `HfQuantConfig.from_recipe("plan.yaml")`.

    For example:

        hf-quant plan ./smollm2 --budget 4.5bpw --data texts.txt --output plan.yaml

        hf-quant plan ./smollm2 --budget 90MB -d texts.txt --pin "lm_head=int8" --strategy evolutionary

        hf-quant plan ./gpt2 --budget "drop<=2%" -d articles.jsonl --report plan.json

        hf-quant plan ./smollm2 -b 3.5bpw -b 4.5bpw -b 6bpw -d texts.txt --report plans.html

        hf-quant plan ./smollm2 -b 4.5bpw -d texts.txt --recipe llama-int4-balanced

        hf-quant plan ./bert -b "drop<=1%" --metric accuracy -d reviews.csv

        hf-quant plan ./smollm2 -b 12ms/token -d texts.txt --hardware host

        hf-quant plan ./smollm2 -b 5bpw -d texts.txt --portable-to onnx,vllm

        accelerate launch --cpu --num_processes 2 -m hf_quant plan ./smollm2 -b 4.5bpw -d texts.txt
    """
    # What is wrong with options is told before the model is loaded.
    check_files(output, report or (), budget)
    chosen = None if recipe is None else steps_of(Recipe.from_file(recipe))
    labels = pairs_of(label, "--label", "DATA=MODEL", "1=positive") or None
    pins, forbidden = choices_of(pin, "--pin"), choices_of(forbid, "--forbid")
    targets = tuple(portable_to.split(",")) if portable_to else ()
    offer = Offer(hardware=hardware, kernels=kernels, fused=fused, portable_to=targets, pins=pins, forbidden=forbidden)
    search = Search(strategy, evaluations, seed if strategy in OPTIONS else None)
    judge = Judge(measure, losses, metric, measurements, chosen)
    with several_processes() as is_first:
        loaded = load_model(model)
        dtype, loaded = loaded.dtype, loaded.float()  # bytes are those of the file that `hf-quant quantize` will write
        offer = replace(offer, step=pass_of(loaded, tokens, context), dtype=dtype)
        if len(budget) > 1:
            search_space(loaded, budget, offer, is_first)  # the last is told before the first is searched
        tokenizer = load_tokenizer(model)
        if is_classifier(loaded):
            sequences: Any = labelled_examples(
                loaded,
                tokenizer,
                data,
                _EXAMPLES if samples is None else samples,
                max_length=sequence_length,
                split=split,
                text_column=text_column,
                label_column=label_column,
                labels=labels,
                seed=seed,
            )
        else:
            if label_column is not None or labels is not None or split is not None:
                raise ConfigError("--label-column, --label and --split are for classifiers, and this model is none")
            sequences = Calibration(
                data,
                tokenizer,
                samples=_SEQUENCES if samples is None else samples,
                sequence_length=sequence_length,
                text_column=text_column,
                seed=seed,
            )
        columns = (text_column, label_column, labels, split)
        facts = (model, data, samples, sequence_length, *columns, seed, measure, hardware, *targets)
        kept = default_losses(output, facts) if losses is None else losses
        judge = replace(judge, losses=kept)
        found = []
        for each in budget:
            plan, result = search_plan(
                loaded, sequences, each, offer=offer, search=search, judge=judge, progress=is_first
            )
            found.append(result)
            if is_first:
                file = output if len(budget) == 1 else output.with_stem(f"{output.stem}-{file_name(each)}")
                write_text(file, _recipe(plan, result, chosen))
                _print(result)
                typer.echo(f"Wrote {file}: hf-quant quantize {model} --recipe {file} -o DIRECTORY")
        for file in (report or ()) if is_first else ():
            _write(file, found, kept)
            typer.echo(f"Wrote {file}")


def _write(file: Path, found: Sequence[SearchReport], losses: Path) -> None:
    if file.suffix == ".json":
        values = [each.to_dict() for each in found]
        write_text(file, json.dumps(values[0] if len(values) == 1 else values, indent=1) + "\n")
        return
    write_plan_page(file, found, LossTable.from_dict(json.loads(losses.read_text(encoding="utf-8"))))


def _recipe(plan: Plan, found: SearchReport, steps: Recipe | None) -> str:
    values = replace(steps or Recipe(), plan=plan).to_dict()
    return f"# {found.summary()}\n" + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


def _print(found: SearchReport) -> None:
    tables = list(found.tables())
    rows = tables[0].rows
    notes = [found.summary()]
    if len(rows) > _MOST_ROWS:
        notes.append(f"{len(rows)} modules: the first {_MOST_ROWS} are shown, --report has all")
        tables[0] = type(tables[0])(**{**tables[0].__dict__, "rows": rows[:_MOST_ROWS]})
    print_section(None, notes, tables)
