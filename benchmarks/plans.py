"""Searched plans beside the same bits for all, chance, and fewer bits for larger modules, at the same size.

Each cell searches a plan for a budget on training texts and measures the quantized model on test texts. Strategies that
measure are allowed as many measurements as repairing the exact solution of the predictions takes. The analysis of a
model is kept, and serves all of its cells.

Every cell is a process of its own, whose result is appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated_methods import BEST, BESTS, NEAREST
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import in_fresh_process
from benchmarks.options import add_names, parser_of
from benchmarks.plan_subjects import batches_of, nats
from hf_quant import HfQuantConfig, Judge, Recipe, Search
from hf_quant.demo.cache import cache_directory
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.search import OPTIONS
from hf_quant.planner.sensitivity import MEASURES

EXAMPLES = """examples:
  python -m benchmarks.plans                                            everything
  python -m benchmarks.plans --models smollm2 --budgets 4.5 --strategies uniform ilp
  python -m benchmarks.plans --models smollm2 --budgets 4.5 --strategies uniform ilp --rounding best --measurements 1
  python -m benchmarks.plans --models sentiment --measurements 3        a quick look
"""

FLOAT, UNIFORM, EXACT = "fp32", "uniform", "ilp"
SEEDS = {"random": (0, 1, 2)}
"""Chance is tried several times; the mean is shown."""
STRATEGIES = (UNIFORM, "proportional", "random", EXACT, "evolutionary", "rl")
BUDGETS = (3.5, 4.0, 4.5, 6.0)
ROUNDINGS = {NEAREST: None, BEST: BESTS["W4A16 g64"]}
"""To nearest, or by AWQ and then GPTQ, for uniform bits as for searched ones."""


@dataclass(frozen=True)
class Cell:
    """What a result depends on.

    Args:
        model: A name of `SUBJECTS`.
        weights: Fingerprint of its checkpoint.
        bits: Budget, a weight; 0 for float32.
        strategy: One of `STRATEGIES`, or `FLOAT`.
        seed: Of what draws.
        measure: A name of `MEASURES`; empty where sensitivities are not asked.
        schemes: How many are offered.
        samples: Sequences, a quarter of which plans are measured on while searching.
        measurements: Of each search, at most.
        articles: That the language models are tested on.
        rounding: What plans are carried out by, a name of `ROUNDINGS`.
    """

    model: str
    weights: str
    bits: float
    strategy: str
    seed: int
    measure: str
    schemes: int
    samples: int
    measurements: int
    articles: int
    rounding: str = NEAREST

    def __str__(self) -> str:
        words = f"{self.model} {self.bits:g} bits {self.strategy}" + (f" {self.seed}" if self.seed else "")
        return words if self.rounding == NEAREST else f"{words}, {self.rounding}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    add_names(parser, "--models", SUBJECTS)
    add_names(parser, "--strategies", STRATEGIES)
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, help="bits per weight (%(default)s)")
    parser.add_argument("--measure", choices=list(MEASURES), default="fisher", help="(default: %(default)s)")
    parser.add_argument(
        "--rounding", choices=list(ROUNDINGS), default=NEAREST, help="of all plans (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=16, help="sequences to search with (default: %(default)s)")
    parser.add_argument("--measurements", type=int, default=8, help="of each search (default: %(default)s)")
    parser.add_argument("--articles", type=int, default=20, help="to test language models on (default: %(default)s)")
    add_record_option(parser, "plans")
    return parser.parse_args()


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Budget by budget, so that the first rows are whole early."""
    cells = []
    for model in options.models:
        weights = weights_fingerprint(SUBJECTS[model].directory())
        fixed = (len(SCHEMES), options.samples, options.measurements, options.articles)
        cells.append(Cell(model, weights, 0.0, FLOAT, 0, "", 0, 0, 0, options.articles))
        for bits in options.budgets:
            for strategy in STRATEGIES:
                if strategy in options.strategies:
                    for seed in SEEDS.get(strategy, (0,)):
                        found = (bits, strategy, seed, options.measure, *fixed, options.rounding)
                        cells.append(Cell(model, weights, *found))
    return cells


def measure(cell: Cell, threads: int, progress: bool) -> dict[str, Any]:
    """Nats on test texts, bytes predicted and written, the loss predicted and measured while searching, and seconds."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    model, tokenizer = SUBJECTS[cell.model].load()
    if cell.strategy == FLOAT:
        return {"nats": nats(cell.model, model, tokenizer, cell.articles)}
    batches = batches_of(cell.model, tokenizer, cell.samples)
    losses = (
        cache_directory() / "benchmarks" / f"losses-{cell.weights}-{cell.measure}-{cell.schemes}-{cell.samples}.json"
    )
    searches = cell.strategy in (EXACT, "evolutionary", "rl")
    steps = ROUNDINGS[cell.rounding]
    recipe = None if steps is None else Recipe.from_dict(steps)
    began = time.perf_counter()
    plan, report = hf_quant.search_plan(
        model,
        batches,
        f"{cell.bits}bpw",
        search=Search(cell.strategy, cell.measurements if searches else 1, cell.seed)
        if cell.strategy in OPTIONS
        else Search(cell.strategy),
        judge=Judge(
            cell.measure,
            losses,
            measurements=cell.measurements if cell.strategy == EXACT else 0,
            recipe=recipe if searches else None,
        ),
        progress=progress,
    )
    seconds = time.perf_counter() - began
    subject = SUBJECTS[cell.model]
    data = None if recipe is None else subject.calibration(tokenizer, cell.samples, subject.sequence_length)
    config = HfQuantConfig(plan=plan, recipe=recipe, calibration=data)
    quantized = hf_quant.quantize(model, config, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        quantized.save_pretrained(folder)
        written = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    return {
        "nats": nats(cell.model, quantized, tokenizer, cell.articles),
        "bytes": report.bytes,
        "written": written,
        "predicted": report.predicted_loss,
        "measured": report.measured_loss,
        "evaluations": report.evaluations,
        "seconds": seconds,
        "rounding": report.rounding,
    }


def table(model: str, found: Mapping[tuple[float, str], Sequence[Mapping[str, Any]]], reference: float) -> str:
    """What each strategy loses against float32, and which part of the loss of the same bits for all that is.

    Losses are rises of the mean loss in nats; a rise of the perplexity by r nats is one by a factor of ``exp(r)``.
    """
    strategies = [strategy for strategy in STRATEGIES if any(of == strategy for _, of in found)]
    lines = [f"### {model}: float32 {_words(model, reference)}", "", f"| bits per weight | {' | '.join(strategies)} |"]
    lines.append(f"|{'---|' * (1 + len(strategies))}")
    for bits in dict.fromkeys(bits for bits, _ in found):
        row = [f"{bits:g}"]
        uniform = found.get((bits, UNIFORM))
        for strategy in strategies:
            cells = found.get((bits, strategy))
            if cells is None:
                row.append("")
                continue
            rise = statistics.fmean(cell["nats"] for cell in cells) - reference
            text = f"{rise:+.4f}"
            if uniform is not None and strategy != UNIFORM and (gap := uniform[0]["nats"] - reference) > 0:
                text += f", {rise / gap:.0%}"
                if model != "sentiment":
                    text += f" (of perplexity {math.expm1(rise) / math.expm1(gap):.1%})"
            row.append(text)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _words(model: str, value: float) -> str:
    return f"{value:.4f} nats" + ("" if model == "sentiment" else f" (perplexity {math.exp(value):.3f})")


def tables(cells: Sequence[Cell], results: Sequence[Mapping[str, Any]]) -> str:
    """A table for each model, and how far predicted bytes are from written ones."""
    parts = []
    for model in dict.fromkeys(cell.model for cell in cells):
        found: dict[tuple[float, str], list[Mapping[str, Any]]] = {}
        reference = math.nan
        for cell, result in zip(cells, results, strict=True):
            if cell.model == model and cell.strategy == FLOAT:
                reference = result["nats"]
            elif cell.model == model:
                found.setdefault((cell.bits, cell.strategy), []).append(result)
        parts.append(table(model, found, reference))
        beyond = [result["bytes"] - result["written"] for results in found.values() for result in results]
        if beyond:
            parts.append(f"Bytes reported are {min(beyond)} to {max(beyond)} above those written.")
    return "\n\n".join(parts)


def main() -> None:
    options = parse()
    cells, kept = cells_of(options), Kept(options.json, options.threads)
    results = kept.all(
        cells,
        lambda cell: in_fresh_process(measure, cell, options.threads, sys.stderr.isatty()),
        lambda _, result: f"{result['nats']:.4f} nats",
    )
    print(
        f"{kept.measured_on(map(asdict, cells))}; rise of the loss on test texts in nats, and as a part of uniform's\n"
    )
    print(tables(cells, results))


if __name__ == "__main__":
    main()
