"""Times that the cost model predicts beside those that a model takes, on this machine.

The kernel table is that of `hf-quant hardware --measure`, measured first where there is none. Models have the shapes of
real ones and random weights; each is quantized by presets and by plans that draw a scheme for every module. Run it on
an idle machine: a table of a busy one predicts a busy one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import warnings
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
from hf_quant.planner.cost.compare import compare_latency
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import Pass
from hf_quant.workflows.measure_hardware import kernel_table
from hf_quant.workflows.plan import SCHEMES

EXAMPLES = """examples:
  python -m benchmarks.predicted_latency                                a quarter of an hour, the table included
  python -m benchmarks.predicted_latency --models llama-135m --variants int4 "mixed 0"
  python -m benchmarks.predicted_latency --refresh                      measure the kernels again first
"""

MODELS = [name for name in SHAPES if name not in LARGE]
VARIANTS = ("fp32", "int8", "int4", "mixed 0", "mixed 1")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    add_names(parser, "--models", MODELS)
    add_names(parser, "--variants", VARIANTS)
    parser.add_argument("--passes", type=int, default=20, help="of each model that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a table of few shapes, in half a minute")
    parser.add_argument("--refresh", action="store_true", help="measure the kernels again")
    parser.add_argument(
        "--cache", type=Path, default=cache_directory() / "benchmarks", help="folder for models (default: %(default)s)"
    )
    return parser.parse_args()


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


def measure(model: str, folder: str, variant: str, threads: int, passes: int) -> dict[str, tuple[float, float]]:
    """Milliseconds predicted and measured of each pass; in a process of its own."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    auto_class = AutoModel if is_encoder(model) else AutoModelForCausalLM
    network = quantized(auto_class.from_pretrained(folder, dtype=torch.float32).eval(), variant)
    table = kernel_table(progress=False)
    found = {}
    for words, step in passes_of(model).items():
        result = compare_latency(network, table, step, passes)
        found[words] = (result.predicted.total, result.measured.median)
    return found


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    table = kernel_table(quick=options.quick, refresh=options.refresh)
    print(f"{cpu_name()}, {options.threads} threads; {table.busy:.2f} cores were busy with other things meanwhile")
    print("\n| model | | pass | predicted | measured | error |\n|---|---|---|---|---|---|")
    errors: dict[str, list[float]] = {}
    cells = [(model, variant) for model in options.models for variant in options.variants]
    for model, variant in tqdm(cells, desc="Models", disable=not sys.stderr.isatty()):
        folder = str(checkpoint(model, options.cache))
        found = in_fresh_process(measure, model, folder, variant, options.threads, options.passes)
        for words, (predicted, measured) in found.items():
            error = predicted / measured - 1
            errors.setdefault("float" if variant == "fp32" else "quantized", []).append(abs(error))
            print(
                f"| {model} | {variant} | {words} | {predicted:.2f} ms | {measured:.2f} ms | {error:+.1%} |", flush=True
            )
    for kind, each in errors.items():
        within = sum(error <= 0.15 for error in each)
        print(
            f"\n{kind}: {within} of {len(each)} within 15 %, median error {statistics.median(each):.1%}, "
            f"largest {max(each):.1%}"
        )


if __name__ == "__main__":
    main()
