"""Times that the cost model predicts beside those that a model takes, on this machine.

The kernel table is what `hf-quant hardware --measure` measures, but the sweeps over its cells and the runs of models
take turns, in processes of their own, so that a machine which is faster at one time than at another is so for both. Of
models, too, the median of the turns counts that others disturbed least. They have the shapes of real ones and random
weights; each is quantized by presets and by plans that draw a scheme for every module.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging

import hf_quant
from benchmarks.checkpoints import LARGE, SHAPES, checkpoint, is_encoder
from benchmarks.memory import in_fresh_process
from benchmarks.options import add_names, parser_of
from hf_quant import HfQuantConfig
from hf_quant.demo.cache import cache_directory
from hf_quant.hardware.detect import cpu_name
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.compare import time_pass
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import Pass, predict_latency
from hf_quant.planner.cost.measure import QUICK, THOROUGH, TableMeasurement
from hf_quant.planner.cost.quiet import Quiet, least_disturbed
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.offered import SCHEMES
from hf_quant.workflows.measure_hardware import measure_overheads

EXAMPLES = """examples:
  python -m benchmarks.predicted_latency                                half an hour
  python -m benchmarks.predicted_latency --models llama-135m --variants int4 "mixed 0"
  python -m benchmarks.predicted_latency --rounds 1 --quick             a quick look
"""

MODELS = [name for name in SHAPES if name not in LARGE]
VARIANTS = ("fp32", "int8", "int4", "mixed 0", "mixed 1")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    add_names(parser, "--models", MODELS)
    add_names(parser, "--variants", VARIANTS)
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of the table and all models (default: %(default)s)"
    )
    parser.add_argument("--passes", type=int, default=20, help="of a model in its turn (default: %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=10.0, help="seconds a turn of a model waits for quiet (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a table of few shapes")
    parser.add_argument(
        "--cache", type=Path, default=cache_directory() / "benchmarks", help="folder for models (default: %(default)s)"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Turn:
    """Of a model: milliseconds of each pass, how many were timed, and how many while others slowed the processor."""

    milliseconds: dict[str, float]
    timed: int
    disturbed: int


def passes_of(model: str) -> dict[str, Pass]:
    """What is timed, in words and as the cost model takes it."""
    if is_encoder(model):
        return {"encode 1 x 128": Pass(tokens=128), "encode 8 x 128": Pass(tokens=128, batch=8)}
    return {
        "prefill 128": Pass(tokens=128, logits=1),
        "prefill 512": Pass(tokens=512, logits=1),
        "decode after 512": Pass(tokens=1, context=512, logits=1),
    }


def quantized(model: Any, variant: str) -> Any:
    """By a preset, by nothing, or by a plan that draws."""
    if variant == "fp32":
        return model
    if not variant.startswith("mixed"):
        return hf_quant.quantize(model, variant, progress=False)
    problem = build_problem(DiskCosts(model), None, tuple(SCHEMES.values()))
    draw = random.Random(variant)
    whole = [[i for i, option in enumerate(unit.options) if option.scheme is not None] for unit in problem.units]
    plan = problem.plan(tuple(draw.choice(indices) for indices in whole))
    return hf_quant.quantize(model, HfQuantConfig(plan=plan), progress=False)


def measure(model: str, folder: str, variant: str, threads: int, passes: int, quiet: Quiet) -> Turn:
    """Median milliseconds of each pass, in quiet moments; in a process of its own."""
    network = _network(model, folder, variant, threads)
    found = {words: time_pass(network, step, passes, quiet).median for words, step in passes_of(model).items()}
    return Turn(found, quiet.timed, quiet.disturbed)


def predict(model: str, folder: str, variant: str, threads: int, table: KernelTable) -> dict[str, float]:
    """Milliseconds of each pass by the cost model; in a process of its own."""
    network = _network(model, folder, variant, threads)
    return {words: predict_latency(network, table, step).total for words, step in passes_of(model).items()}


def _network(model: str, folder: str, variant: str, threads: int) -> Any:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    auto_class = AutoModel if is_encoder(model) else AutoModelForCausalLM
    return quantized(auto_class.from_pretrained(folder, dtype=torch.float32).eval(), variant)


def sweep(measurement: TableMeasurement, threads: int) -> TableMeasurement:
    """One sweep more; in a process of its own."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    measurement.sweep()
    return measurement


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    measurement = TableMeasurement(QUICK if options.quick else THOROUGH, None, measure_overheads, progress=False)
    cells = [(model, variant) for model in options.models for variant in options.variants]
    folders = {model: str(checkpoint(model, options.cache)) for model in options.models}
    found: dict[tuple[str, str], list[Turn]] = {cell: [] for cell in cells}
    with tqdm(total=options.rounds * (1 + len(cells)), disable=not sys.stderr.isatty()) as bar:
        for _ in range(options.rounds):
            bar.set_postfix_str("kernels")
            measurement = in_fresh_process(sweep, measurement, options.threads)
            bar.update()
            for model, variant in cells:
                bar.set_postfix_str(f"{model} {variant}")
                quiet = Quiet(options.patience, measurement.quiet.best)
                arguments = (model, folders[model], variant, options.threads, options.passes, quiet)
                found[model, variant].append(in_fresh_process(measure, *arguments))
                bar.update()
    table = measurement.table()
    print(f"{cpu_name()}, {options.threads} threads, {options.rounds} turns; ", end="")
    print(f"{table.busy:.2f} cores were busy with other things while kernels were timed; ", end="")
    turns = [turn for each in found.values() for turn in each]
    share = sum(turn.disturbed for turn in turns) / sum(turn.timed for turn in turns)
    print(f"others slowed {table.disturbed:.0%} of what was timed of kernels, {share:.0%} of the passes")
    print("\n| model | | pass | predicted | measured | error | turns |\n|---|---|---|---|---|---|---|")
    errors: dict[str, list[float]] = {}
    for (model, variant), each_turn in found.items():
        quiet_turns = least_disturbed([(turn.disturbed, turn) for turn in each_turn])
        predictions = in_fresh_process(predict, model, folders[model], variant, options.threads, table)
        for words, predicted in predictions.items():
            each = sorted(turn.milliseconds[words] for turn in quiet_turns)
            measured = statistics.median(each)
            error = predicted / measured - 1
            errors.setdefault("float" if variant == "fp32" else "quantized", []).append(abs(error))
            print(f"| {model} | {variant} | {words} | {predicted:.2f} ms | {measured:.2f} ms | {error:+.1%} ", end="")
            print(f"| {each[0]:.2f} to {each[-1]:.2f} ms |", flush=True)
    for kind, values in errors.items():
        within = sum(error <= 0.15 for error in values)
        print(
            f"\n{kind}: {within} of {len(values)} within 15 %, median error {statistics.median(values):.1%}, "
            f"largest {max(values):.1%}"
        )


if __name__ == "__main__":
    main()
