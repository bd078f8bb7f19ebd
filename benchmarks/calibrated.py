"""Calibrated quantization on real models: quality by method, and the part of what rounding loses that each wins back.

Models are SmolLM2-135M moved off its 4-bit grid and the small GPT-2 (perplexity on news articles), and the sentiment
classifier (accuracy on film reviews); all are calibrated on texts of the training parts and measured on the test parts.
Embeddings and heads are INT8 per row in every cell, as the presets have them, but for those of --float-embeddings.

Every cell is a process of its own, whose result is appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated_methods import BEST, FLOAT, NEAREST, SETTINGS, needs_data, recipe_for, settings_of
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.calibrated_tables import COLUMNS, Result, tables
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import PeakAnonymous, in_fresh_process
from benchmarks.options import parser_of
from hf_quant import HfQuantConfig, Recipe
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.inventory import Inventory

EXAMPLES = """examples:
  python -m benchmarks.calibrated                                       everything, the most telling cells first
  python -m benchmarks.calibrated --models smollm2 --settings "W4A16 g64" --methods RTN GPTQ best
  python -m benchmarks.calibrated --models gpt2 --settings "W2A16 g64" --samples 16 --articles 5     a quick look
  python -m benchmarks.calibrated --float-embeddings --settings "W4A16 g64"       as other programs leave them
  python -m benchmarks.calibrated --list                                cells and their recipes, measuring nothing
"""

ORDER = (NEAREST, BEST, "GPTQ", "AWQ", "MSE", "SignRound")
"""Methods as they are measured: what is cheap or matters most comes first."""


@dataclass(frozen=True)
class Cell:
    """What a result depends on.

    Args:
        model: A name of `SUBJECTS`.
        weights: Fingerprint of its checkpoint.
        setting: A name of `SETTINGS`; empty for float32.
        method: A name of `COLUMNS`.
        recipe: As `Recipe.to_dict` writes it, `calibration` included where there is any; None for float32.
        articles: That perplexity is measured on.
        float_embeddings: Whether embeddings and heads stay float.
    """

    model: str
    weights: str
    setting: str
    method: str
    recipe: dict[str, Any] | None
    articles: int
    float_embeddings: bool

    def __str__(self) -> str:
        return " ".join(filter(None, (self.model, self.setting, self.method)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)

    def choice(name: str, choices: list[str], text: str) -> None:
        parser.add_argument(name, nargs="+", choices=choices, metavar="NAME", help=f"of {', '.join(choices)} ({text})")

    choice("--models", list(SUBJECTS), "default: all")
    choice("--settings", list(SETTINGS), "default: all that tell something of a model")
    choice("--methods", list(COLUMNS), "default: all; fp32 and RTN are always measured")
    defaults = ", ".join(f"{each.samples} for {name}" for name, each in SUBJECTS.items())
    parser.add_argument("--samples", type=int, help=f"sequences to calibrate on (default: {defaults})")
    defaults = ", ".join(f"{each.sequence_length} for {name}" for name, each in SUBJECTS.items())
    parser.add_argument("--sequence-length", type=int, help=f"most tokens of a sequence (default: {defaults})")
    parser.add_argument("--articles", type=int, default=20, help="to measure perplexity on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="gradient steps of SignRound (default: %(default)s)")
    parser.add_argument(
        "--float-embeddings", action="store_true", help="leave embeddings and heads float, as other programs do"
    )
    add_record_option(parser, "calibrated")
    parser.add_argument("--list", action="store_true", help="print the cells in their order")
    return parser.parse_args()


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Setting by setting, so that the first rows are whole early."""
    methods = {NEAREST, *(options.methods or COLUMNS)}
    models = options.models or list(SUBJECTS)
    wanted = {model: options.settings or settings_of(model) for model in models}
    cells = [_cell(options, model, "", FLOAT) for model in models]
    for setting in SETTINGS:
        for model in models:
            if setting in wanted[model]:
                cells += [_cell(options, model, setting, method) for method in ORDER if method in methods]
    return cells


def _cell(options: argparse.Namespace, model: str, setting: str, method: str) -> Cell:
    recipe = None
    if method != FLOAT:
        subject = SUBJECTS[model]
        chosen = recipe_for(model, setting, method, options.steps)
        data = {
            "samples": options.samples or subject.samples,
            "sequence_length": options.sequence_length or subject.sequence_length,
        }
        recipe = replace(chosen, calibration=data if needs_data(chosen) else {}).to_dict()
    weights = weights_fingerprint(SUBJECTS[model].directory())
    return Cell(model, weights, setting, method, recipe, options.articles, options.float_embeddings)


def measure(cell: Cell, threads: int, progress: bool) -> dict[str, Any]:
    """A `Result` as a dict: quantize, and see how good the outcome is; in a process of its own."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # where a transform finds nothing to do, the figures say so
    subject = SUBJECTS[cell.model]
    bits = 32.0
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        model, tokenizer = subject.load()
        if cell.recipe is not None:
            recipe = Recipe.from_dict(cell.recipe)
            data = subject.calibration(tokenizer, **recipe.calibration) if recipe.calibration else None
            floats = [name for name, entry in Inventory.of(model).candidates.items() if entry.kind != "linear"]
            config = HfQuantConfig(
                recipe=recipe, calibration=data, modules_to_not_convert=floats if cell.float_embeddings else None
            )
            hf_quant.quantize(model, config, progress)
            bits = bits_per_weight(model)
        seconds = time.perf_counter() - began
    quality = subject.quality(model, tokenizer, cell.articles)
    return asdict(Result(cell.model, cell.setting, cell.method, subject.metric, quality, seconds, memory.bytes, bits))


def bits_per_weight(model: Any) -> float:
    """Bits that the linears take on disk, scales and zero points counted, over their weights; heads are left out."""
    head = model.get_output_embeddings()
    bits = weights = 0
    for module in model.modules():
        if isinstance(module, QuantizedModule) and module.multiplies and module is not head:
            facts = {name: each for name, each in module.tensor_facts().items() if name.startswith("weight")}
            bits += sum(8 * dtype.itemsize * math.prod(shape) for shape, dtype in facts.values())
            weights += module.spec.in_features * module.spec.out_features
    return bits / weights


def main() -> None:
    options = parse()
    cells = cells_of(options)
    if options.list:
        print("\n".join(f"{cell}: {json.dumps(cell.recipe)}" for cell in cells))
        return
    kept = Kept(options.json, options.threads)
    found = kept.all(
        cells,
        lambda cell: in_fresh_process(measure, cell, options.threads, sys.stderr.isatty()),
        lambda _, result: f"{result['metric']} {result['quality']:.4f}, {result['seconds']:.0f} s",
    )
    results = [Result(**each) for each in found]
    print(f"{kept.measured_on(map(asdict, cells))}; {options.articles} articles; embeddings and heads ", end="")
    print("float" if options.float_embeddings else "INT8 per row in every cell")
    print(f"\n{tables(results)}")


if __name__ == "__main__":
    main()
