"""``hf-quant plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hf_quant.calibration.data import Calibration
from hf_quant.calibration.files import open_dataset
from hf_quant.cli.sections import print_section
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.errors import ConfigError
from hf_quant.planner.report import SearchReport
from hf_quant.planner.search import STRATEGIES
from hf_quant.reporting.json_file import write_text
from hf_quant.workflows.checkpoints import load_model, load_tokenizer
from hf_quant.workflows.plan import search_plan

_MOST_ROWS = 40
"""Modules that are printed; the report has all."""


def run(
    model: Annotated[str, typer.Argument(help="Directory or repository id of a float checkpoint (safetensors).")],
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            help='"350MB", "4.5bpw" (bits per weight), "25%" of the float file, "drop<=1%", or several.',
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", help="Texts: a .txt file (blank lines between texts), .jsonl, .csv, or a dataset's id."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file for the plan, a recipe.")] = Path(
        "plan.yaml"
    ),
    report: Annotated[Path | None, typer.Option(help="JSON file for everything that was found.")] = None,
    losses: Annotated[
        Path | None,
        typer.Option(
            help="Keep the analysis in this file, and take it from there: for several budgets. [default: "
            ".NAME.losses.json beside the output]"
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"One of: {', '.join(STRATEGIES)}.")] = "ilp",
    hardware: Annotated[
        str | None, typer.Option(help="Keep to what this profile takes; see hf-quant hardware --list.")
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=PRESET, or PATTERN=float: what modules are to have; may be repeated."),
    ] = None,
    measurements: Annotated[int, typer.Option(help="Most plans to measure after the search.")] = 5,
    evaluations: Annotated[int, typer.Option(help="Most plans that evolutionary, rl and random measure.")] = 30,
    samples: Annotated[int, typer.Option(help="Sequences; a quarter of them is kept to measure on.")] = 32,
    sequence_length: Annotated[int, typer.Option(help="Most tokens of a sequence.")] = 256,
    text_column: Annotated[str | None, typer.Option(help="Where the texts of --data are, if it is not plain.")] = None,
    seed: Annotated[int, typer.Option(help="Of the data, and of strategies that draw.")] = 0,
) -> None:
    """Find the schemes that lose least within a budget, and measure what they lose.

    For language models. The plan is a recipe: `hf-quant quantize MODEL --recipe plan.yaml` carries it out, and so does
    `HfQuantConfig.from_recipe("plan.yaml")`.

    For example:

        hf-quant plan ./smollm2 --budget 4.5bpw --data texts.txt --output plan.yaml

        hf-quant plan ./smollm2 --budget 90MB -d texts.txt --pin "lm_head=int8" --strategy evolutionary

        hf-quant plan ./gpt2 --budget "drop<=2%" -d articles.jsonl --report plan.json
    """
    STRATEGIES[strategy]  # an unknown one is told before the model is loaded
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output takes a file that ends in .yaml, not {output}")
    calibration = Calibration(
        open_dataset(data),
        load_tokenizer(model),
        samples=samples,
        sequence_length=sequence_length,
        text_column=text_column,
        seed=seed,
    )
    plan, found = search_plan(
        load_model(model, dtype="float32"),
        calibration,
        budget,
        strategy=strategy,
        hardware=hardware,
        pins=dict(map(_split, pin)) if pin else None,
        measurements=measurements,
        evaluations=evaluations,
        seed=seed,
        losses=output.absolute().parent / f".{output.stem}.losses.json" if losses is None else losses,
    )
    write_text(output, _recipe(plan, found))
    if report is not None:
        write_text(report, json.dumps(found.to_dict(), indent=1) + "\n")
    _print(found)
    typer.echo(f"Wrote {output}: hf-quant quantize {model} --recipe {output} -o DIRECTORY")


def _recipe(plan: Plan, found: SearchReport) -> str:
    overrides: dict[str, Any] = {
        name: None if scheme is None else scheme.to_dict() for name, scheme in plan.modules.items()
    }
    # Every module is named; the preset is for none, and says what kind of file this is.
    recipe = Recipe(preset="int8", overrides=overrides)
    return f"# {found.summary()}\n" + yaml.safe_dump(
        recipe.to_dict(), sort_keys=False, default_flow_style=None, width=120
    )


def _print(found: SearchReport) -> None:
    tables = list(found.tables())
    rows = tables[0].rows
    notes = [found.summary()]
    if len(rows) > _MOST_ROWS:
        notes.append(f"{len(rows)} modules: the first {_MOST_ROWS} are shown, --report has all")
        tables[0] = type(tables[0])(**{**tables[0].__dict__, "rows": rows[:_MOST_ROWS]})
    print_section(None, notes, tables)


def _split(entry: str) -> tuple[str, str]:
    pattern, separator, preset = entry.rpartition("=")
    if not separator or not pattern:
        raise ConfigError(f"--pin takes PATTERN=PRESET, such as 'lm_head=int8', not {entry!r}")
    return pattern, preset
