"""What recipes cost: time and peak anonymous memory of every shipped one on SmolLM2, and of a run on 1.1B weights.

Each recipe loads and quantizes SmolLM2-135M with as much data as it says, in a process of its own; perplexity is on
news articles that are not calibrated on. The 1.1B Llama has random weights and random tokens: what is measured there is
memory, against one block in float32 and the quantized model, beyond which a run should hold little.

Results are appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.checkpoints import checkpoint
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import PeakAnonymous, in_fresh_process
from benchmarks.options import parser_of
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.calibration.blocks import find_blocks
from hf_quant.demo.cache import cache_directory

EXAMPLES = """examples:
  python -m benchmarks.recipes_cost                                     every recipe as it is, then the 1.1B Llama
  python -m benchmarks.recipes_cost --recipes llama-int4-fast llama-int4-balanced --samples 16
  python -m benchmarks.recipes_cost --recipes llama-int4-best --steps 20
  python -m benchmarks.recipes_cost --recipes --llama-samples 2         the 1.1B Llama only
"""

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("qat_"))
LARGE, LARGE_RECIPE = "llama-1.1b", "llama-int4-balanced"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument(
        "--recipes",
        nargs="*",
        choices=RECIPES,
        default=RECIPES,
        metavar="NAME",
        help=f"of {', '.join(RECIPES)} (default: all; none after the option: none)",
    )
    parser.add_argument("--samples", type=int, help="most sequences to calibrate on (default: what recipes say)")
    parser.add_argument("--steps", type=int, help="gradient steps of SignRound (default: what recipes say)")
    parser.add_argument("--articles", type=int, default=20, help="to measure perplexity on (default: %(default)s)")
    parser.add_argument(
        "--llama-samples", type=int, default=8, help="sequences for the 1.1B Llama; 0: leave it out (%(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=cache_directory() / "benchmarks", help="folder for models (default: %(default)s)"
    )
    add_record_option(parser, "recipes_cost")
    return parser.parse_args()


def recipe_of(name: str, samples: int | None, steps: int | None) -> Recipe:
    """A shipped recipe, with no more data and other steps than asked for."""
    recipe = Recipe.from_file(FOLDER / f"{name}.yaml")
    solver, options = recipe.solver
    if steps is not None and solver == "signround":
        recipe = replace(recipe, solver=(solver, {**options, "steps": steps}))
    if samples is not None and recipe.calibration:
        fewer = min(samples, recipe.calibration["samples"])
        recipe = replace(recipe, calibration={**recipe.calibration, "samples": fewer})
    return recipe


def on_smollm2(values: Mapping[str, Any], articles: int, threads: int) -> dict[str, Any]:
    """Seconds, peak anonymous bytes and perplexity of SmolLM2 with the recipe that `values` are of."""
    _quiet(threads)
    recipe, subject = Recipe.from_dict(values), SUBJECTS["smollm2"]
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        model, tokenizer = subject.load()
        data = Calibration(subject.texts(), tokenizer, **recipe.calibration) if recipe.calibration else None
        hf_quant.quantize(model, HfQuantConfig.from_recipe(recipe, data), sys.stderr.isatty())
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": memory.bytes, "quality": subject.quality(model, tokenizer, articles)}


def on_large(folder: str, values: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Seconds, peak anonymous bytes, and the bytes of a float32 block, of its inputs and of the quantized model."""
    _quiet(threads)
    recipe, config = Recipe.from_dict(values), AutoConfig.from_pretrained(folder)
    samples, length = recipe.calibration["samples"], recipe.calibration["sequence_length"]
    tokens = torch.randint(config.vocab_size, (samples, length), generator=torch.Generator().manual_seed(0))
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        # In the checkpoint's own dtype, whose file is mapped: only what a run makes of it is anonymous memory.
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        block = 4 * sum(each.numel() for each in model.get_submodule(find_blocks(model))[0].parameters())
        data = Calibration(list(tokens), **recipe.calibration)
        hf_quant.quantize(model, HfQuantConfig.from_recipe(recipe, data), sys.stderr.isatty())
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "peak": memory.bytes,
        "block": block,
        "inputs": model.dtype.itemsize * samples * length * config.hidden_size,
        "quantized": saved_bytes(model),
    }


def saved_bytes(model: Any) -> int:
    """Bytes of the files that the model is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def _quiet(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # a recipe for another family may find nothing to scale


def main() -> None:
    options = parse()
    kept, cells = Kept(options.json, options.threads), []
    if options.recipes:
        print(f"Perplexity on {options.articles} articles\n")
        print("| recipe on SmolLM2-135M | data | time | peak anonymous memory | perplexity |\n|---|---|---|---|---|")
    for name in options.recipes:
        recipe = recipe_of(name, options.samples, options.steps)
        values = recipe.to_dict()
        weights = weights_fingerprint(SUBJECTS["smollm2"].directory())
        cells.append({"weights": weights, "recipe": values, "articles": options.articles})
        row = kept.get(cells[-1], partial(in_fresh_process, on_smollm2, values, options.articles, options.threads))
        data = "{samples} x {sequence_length}".format_map(recipe.calibration) if recipe.calibration else ""
        print(
            f"| `{name}` | {data} | {row['seconds']:.0f} s | {row['peak'] / 1e6:.0f} MB | {row['quality']:.3f} |",
            flush=True,
        )
    if options.llama_samples:
        values = recipe_of(LARGE_RECIPE, options.llama_samples, None).to_dict()
        cells.append({"model": LARGE, "recipe": values})
        folder = str(checkpoint(LARGE, options.cache))
        row = kept.get(cells[-1], partial(in_fresh_process, on_large, folder, values, options.threads))
        limit = row["block"] + row["quantized"]
        print(f"\n{LARGE}, {LARGE_RECIPE}, {{samples}} x {{sequence_length}}:".format_map(values["calibration"]))
        print(f"{row['seconds']:.0f} s, peak anonymous memory {row['peak'] / 1e6:.0f} MB,", end=" ")
        print(
            f"{row['peak'] / limit:.2f} of one float32 block ({row['block'] / 1e6:.0f} MB) and the quantized", end=" "
        )
        print(f"model ({row['quantized'] / 1e6:.0f} MB); inputs of a block are {row['inputs'] / 1e6:.0f} MB")
    print(f"\n{kept.measured_on(cells)}")


if __name__ == "__main__":
    main()
