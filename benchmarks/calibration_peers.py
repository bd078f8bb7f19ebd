"""Calibrated INT4 (W4A16, groups of 64) of SmolLM2 beside GPTQModel, llm-compressor and AutoRound.

All quantize the same float32 checkpoint on the same tokens, on the CPU, and leave embeddings and head float. Peers run
in virtual environments of their own, which are made when missing. What they save is decoded here, after a look that no
group has more than 16 distinct numbers, and put into the float32 model: one and the same code measures perplexity.

Every cell is a process of its own, whose result is appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated import bits_per_weight
from benchmarks.calibrated_methods import FLOAT, NEAREST
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.calibrated_tables import closed
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import PeakAnonymous, in_fresh_process
from benchmarks.options import add_names, parser_of
from benchmarks.peers.contenders import COMPARED, LEARNED, OURS, Contender, contenders
from benchmarks.peers.environments import PACKAGES, interpreter
from benchmarks.peers.job import FACTS
from benchmarks.peers.packed import read
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.demo.texts import news_split
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.modules.inventory import Inventory

EXAMPLES = """examples:
  python -m benchmarks.calibration_peers                           everything
  python -m benchmarks.calibration_peers --programs hf_quant --first-article 20     what to choose a recipe by
  python -m benchmarks.calibration_peers --samples 8 --steps 20    a quick look
  nice -n 5 python -m benchmarks.calibration_peers --threads 1     on a machine that has other things to do
"""

_SUBJECT = SUBJECTS["smollm2"]
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cell:
    """What a result depends on.

    Args:
        weights: Fingerprint of the checkpoint.
        label: Method of the contender, and how many steps it takes.
        program: `OURS`, or a name of `PACKAGES`.
        package: What is installed for it; empty for `OURS`.
        settings: Of the contender; None for the float32 model.
        symmetric: Whether zero points are 0.
        samples: Sequences to calibrate on.
        sequence_length: Tokens of each.
        articles: That perplexity is measured on.
        first_article: Of the test articles, which to begin with.
    """

    weights: str
    label: str
    program: str
    package: str
    settings: dict[str, Any] | None
    symmetric: bool
    samples: int
    sequence_length: int
    articles: int
    first_article: int

    def __str__(self) -> str:
        return f"{self.program} {self.label}" + (", symmetric" if self.symmetric else "")


@dataclass(frozen=True)
class Result:
    """What was measured of a cell.

    Args:
        perplexity: Of the test articles.
        bits: Stored for each weight of the linears, scales and zero points counted.
        seconds: Of loading and quantizing; of peers, of saving too.
        peak: Anonymous bytes meanwhile.
    """

    perplexity: float
    bits: float
    seconds: float
    peak: int


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    for option, names in (("--programs", [OURS, *PACKAGES]), ("--methods", COMPARED)):
        add_names(parser, option, names, f"; {FLOAT} and {NEAREST} are always measured")
    parser.add_argument("--samples", type=int, default=_SUBJECT.samples, help="to calibrate on (default: %(default)s)")
    parser.add_argument(
        "--sequence-length", type=int, default=_SUBJECT.sequence_length, help="tokens of each (default: %(default)s)"
    )
    parser.add_argument("--articles", type=int, default=20, help="to measure perplexity on (default: %(default)s)")
    parser.add_argument(
        "--first-article", type=int, default=0, metavar="N", help="measure on those from the Nth test article on"
    )
    parser.add_argument("--steps", type=int, default=200, help="gradient steps of SignRound (default: %(default)s)")
    parser.add_argument("--symmetric", action="store_true", help="without zero points too")
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="FOLDER",
        default=Path.home() / ".cache" / "hfq_bench" / "calibration_peers",
        help="where the peers are installed (default: %(default)s)",
    )
    add_record_option(parser, "calibration_peers")
    parser.add_argument("--measured", action="store_true", help="print what is in that file, measuring nothing")
    return parser.parse_args()


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The float32 model first, then rounding to nearest, then what was asked for."""
    reference = Contender(FLOAT, OURS, {})
    wanted = [
        each
        for each in contenders(options.steps, options.symmetric)
        if (each.program in options.programs and each.method in options.methods) or each.method == NEAREST
    ]
    weights = weights_fingerprint(_SUBJECT.directory())
    return [
        Cell(
            weights,
            each.method + (f", {options.steps} steps" if each.method.endswith(LEARNED) else ""),
            each.program,
            PACKAGES.get(each.program, ""),
            None if each is reference else dict(each.settings),
            each.symmetric,
            options.samples,
            options.sequence_length,
            options.articles,
            options.first_article,
        )
        for each in (reference, *wanted)
    ]


def measure(cell: Cell, environments: Path, threads: int) -> dict[str, Any]:
    """A `Result` as a dict; in a process of its own."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # where a transform finds nothing to do, the figures say so
    if cell.program == OURS:
        model, bits, seconds, peak = _quantized_here(cell)
    else:
        model, bits, seconds, peak = _quantized_there(cell, interpreter(environments, cell.program), threads)
    last = cell.first_article + cell.articles
    texts = [text for _, text in news_split()[1][cell.first_article : last]]
    tokenizer = AutoTokenizer.from_pretrained(_SUBJECT.directory())
    return asdict(Result(perplexity(model, tokenizer, texts, 512), bits, seconds, peak))


def _quantized_here(cell: Cell) -> tuple[Any, float, float, int]:
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        model, tokenizer = _SUBJECT.load()
        if cell.settings is not None:
            floats = [name for name, entry in Inventory.of(model).candidates.items() if entry.kind != "linear"]
            config = HfQuantConfig(
                recipe=Recipe.from_dict(cell.settings),
                calibration=_data(cell, tokenizer),
                # The head is a linear, but tied to the embeddings, and goes with them.
                modules_to_not_convert=floats,
            )
            hf_quant.quantize(model, config)
        seconds = time.perf_counter() - began
    return model, 32.0 if cell.settings is None else bits_per_weight(model), seconds, memory.bytes


def _quantized_there(cell: Cell, python: Path, threads: int) -> tuple[Any, float, float, int]:
    checkpoint = _SUBJECT.directory()
    model, tokenizer = _SUBJECT.load()
    with tempfile.TemporaryDirectory() as temporary:
        tokens, output = Path(temporary) / "tokens.safetensors", Path(temporary) / "output"
        output.mkdir()
        batches = _data(cell, tokenizer).batches(AutoConfig.from_pretrained(checkpoint))
        save_file({"input_ids": torch.cat([batch["input_ids"] for batch in batches])}, tokens)
        job = f"benchmarks.peers.{cell.program.replace('-', '_')}"
        command = [str(python), "-m", job, str(checkpoint), str(tokens), str(output), json.dumps(cell.settings)]
        # GPTQModel keeps its logs in the folder that it is run in.
        subprocess.run(command, check=True, cwd=temporary, env=_environment(threads), stdout=sys.stderr)
        facts = json.loads((output / FACTS).read_text(encoding="utf-8"))
        # AutoRound makes a folder of its own in it.
        linears, others = read(next(output.rglob("config.json")).parent)
    state = model.state_dict()
    for name, tensor in others.items():
        # What a peer only stores in fewer bits stays as it was: this is about the linears.
        if name in state and not torch.equal(tensor, state[name].to(tensor.dtype)):
            state[name].copy_(tensor)
    for name, linear in linears.items():
        state[f"{name}.weight"].copy_(linear.weight)
    bits = 8 * sum(linear.stored for linear in linears.values()) / sum(each.weight.numel() for each in linears.values())
    return model, bits, facts["seconds"], facts["peak"]


def _data(cell: Cell, tokenizer: Any) -> Calibration:
    return _SUBJECT.calibration(tokenizer, cell.samples, cell.sequence_length)


def _environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"), "1"),
        "PYTHONPATH": str(_ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        # Its pool of workers is half the processors, and takes two at least.
        "GPTQMODEL_CPU_WORKERS": "2",
    }


def table(cells: Sequence[Cell], results: Sequence[Result]) -> str:
    """Markdown, the float32 model first."""
    reference = next((r.perplexity for c, r in zip(cells, results, strict=True) if c.settings is None), math.nan)
    columns = ["program", "method", "zero points", "bits", "perplexity", "over float32", "of RTN's loss won back"]
    columns += ["time", "peak memory"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    nearest = next((r.perplexity for c, r in zip(cells, results, strict=True) if c.label == NEAREST), None)
    for cell, result in zip(cells, results, strict=True):
        if cell.settings is None:
            lines.append(f"| | {cell.label} | | 32 | {result.perplexity:.3f} | | | | |")
            continue
        part = "" if nearest is None else f"{closed(result.perplexity, nearest, reference):.0%}"
        lines.append(
            f"| {cell.program} | {cell.label} | {'no' if cell.symmetric else 'yes'} | {result.bits:.4f} "
            f"| {result.perplexity:.3f} | {result.perplexity / reference - 1:+.2%} | {part} "
            f"| {result.seconds:.0f} s | {result.peak / 1e6:.0f} MB |"
        )
    return "\n".join(lines)


def verdict(cells: Sequence[Cell], results: Sequence[Result]) -> str:
    """The best of hf_quant and the best of the others, at any of the measured sizes, and at no more bits."""
    found = [pair for pair in zip(cells, results, strict=True) if pair[0].settings is not None]
    ours = sorted((pair for pair in found if pair[0].program == OURS), key=lambda pair: pair[1].perplexity)
    theirs = sorted((pair for pair in found if pair[0].program != OURS), key=lambda pair: pair[1].perplexity)
    if not ours or not theirs:
        return ""
    lines = [f"Best of the others: {_words(*theirs[0])}.", f"Best of hf_quant: {_against(ours[0], theirs[0])}."]
    # To the third digit: that is what files are told apart by.
    small = [pair for pair in ours if round(pair[1].bits, 3) <= round(theirs[0][1].bits, 3)]
    if small and small[0] != ours[0]:
        lines.append(f"Best of hf_quant at no more bits: {_against(small[0], theirs[0])}.")
    return "\n".join(lines)


def _words(cell: Cell, result: Result) -> str:
    return f"{cell}, perplexity {result.perplexity:.3f} at {result.bits:.4f} bits"


def _against(ours: tuple[Cell, Result], theirs: tuple[Cell, Result]) -> str:
    change = ours[1].perplexity / theirs[1].perplexity - 1
    return f"{_words(*ours)}: {'no worse' if change <= 0 else 'worse'} ({change:+.2%})"


def main() -> None:
    options = parse()
    kept = Kept(options.json, options.threads)
    cells = [cell for cell in cells_of(options) if not options.measured or asdict(cell) in kept]
    if not cells:
        print(f"Nothing in {options.json} was measured like that", file=sys.stderr)
        return
    found = kept.all(
        cells,
        lambda cell: in_fresh_process(measure, cell, options.environments, options.threads),
        lambda _, result: f"{result['perplexity']:.4f}, {result['seconds']:.0f} s",
    )
    results = [Result(**each) for each in found]
    last = options.first_article + options.articles
    print(f"{kept.measured_on(map(asdict, cells))}; {options.samples} x {options.sequence_length} tokens; ", end="")
    print(f"test articles {options.first_article} to {last - 1}; {', '.join(PACKAGES.values())}")
    print(f"\n{table(cells, results)}\n\n{verdict(cells, results)}")


if __name__ == "__main__":
    main()
