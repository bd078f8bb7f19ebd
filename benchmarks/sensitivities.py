"""Sensitivities held against measured losses: rank correlation over random plans, time, and what two processes save.

Random plans give each module one of the schemes that `hf_quant.search_plan` offers. Their predicted loss is the sum of
a measure's losses, their true one is measured on sequences that the analysis did not see.

Every cell is a process of its own, whose result is appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from tqdm.auto import tqdm
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import PeakAnonymous, in_fresh_process
from benchmarks.options import add_names, parser_of
from benchmarks.plan_subjects import batches_of
from hf_quant import HfQuantConfig
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.quality import mean_loss
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.table import LossTable

EXAMPLES = """examples:
  python -m benchmarks.sensitivities                                    everything; measures that run the model for each
                                                                        module and scheme take hours for SmolLM2
  python -m benchmarks.sensitivities --models sentiment --measures fisher kl
  python -m benchmarks.sensitivities --models smollm2 --measures fisher --processes 2    and the speed-up
"""

_PLANS = 30


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    add_names(parser, "--models", SUBJECTS)
    add_names(parser, "--measures", MEASURES)
    parser.add_argument("--samples", type=int, default=8, help="sequences; a quarter is tested on (%(default)s)")
    parser.add_argument("--plans", type=int, default=_PLANS, help="random plans (default: %(default)s)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="2: time both (default: %(default)s)")
    add_record_option(parser, "sensitivities")
    return parser.parse_args()


def divided(model: str, tokenizer: Any, samples: int) -> tuple[list[Any], list[Any]]:
    """Sequences to analyse, and to measure on."""
    rows = batches_of(model, tokenizer, samples)
    rows = [{key: each[i : i + 1] for key, each in row.items()} for row in rows for i in range(len(row["input_ids"]))]
    kept = max(1, len(rows) // 4)
    return rows[:-kept], rows[-kept:]


def analysed(cell: Mapping[str, Any], threads: int, file: str) -> dict[str, Any]:
    """A table of losses, the seconds it took, and peak anonymous memory; in this process, or in one of several."""
    _quiet(threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    model, tokenizer = SUBJECTS[cell["model"]].load()
    rows, _ = divided(cell["model"], tokenizer, cell["samples"])
    progress = sys.stderr.isatty()
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        table = analyse(model, rows, tuple(SCHEMES.values()), cell["measure"], file=Path(file), progress=progress)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": memory.bytes, "table": table.to_dict()}


def in_two(cell: Mapping[str, Any], threads: int, file: str) -> dict[str, Any]:
    """`analysed`, by two processes with half of the threads each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    code = (
        "import sys, json; from benchmarks.sensitivities import analysed; "
        "print(json.dumps(analysed(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, json.dumps(cell), str(max(1, threads // 2)), file]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a process of the analysis failed; see above")
    return dict(json.loads(printed[0].splitlines()[-1]))


def measured(cell: Mapping[str, Any], threads: int) -> float:
    """The rise of the loss under a random plan; under no plan, the float model's loss."""
    _quiet(threads)
    model, tokenizer = SUBJECTS[cell["model"]].load()
    _, rows = divided(cell["model"], tokenizer, cell["samples"])
    if cell["plan"] is None:
        return mean_loss(model, rows)
    problem = build_problem(DiskCosts(model), None, tuple(SCHEMES.values()))
    plan = problem.plan(drawn(problem, cell["plan"]))
    quantized = hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=plan), progress=False)
    return mean_loss(quantized, rows)


def drawn(problem: Problem, seed: int) -> Assignment:
    """A random plan of quantized modules."""
    generator = random.Random(seed)
    return tuple(
        generator.choice([index for index, option in enumerate(unit.options) if option.scheme is not None])
        for unit in problem.units
    )


def correlation(model: str, table: LossTable, losses: Sequence[float]) -> float:
    """Spearman's, of predicted and measured losses of the random plans."""
    network, _ = SUBJECTS[model].load()
    problem = build_problem(DiskCosts(network), table, tuple(SCHEMES.values()))
    predicted = [problem.totals(drawn(problem, seed)).loss for seed in range(len(losses))]
    return float(spearmanr(predicted, losses).statistic)


def _quiet(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def main() -> None:
    options = parse()
    kept, cells = Kept(options.json, options.threads), []
    rows = []
    for model in options.models:
        fixed = {
            "model": model,
            "weights": weights_fingerprint(SUBJECTS[model].directory()),
            "samples": options.samples,
            "schemes": len(SCHEMES),
        }
        losses = []
        for number in tqdm([None, *range(options.plans)], desc=f"{model}: plans", disable=not sys.stderr.isatty()):
            cells.append({**fixed, "plan": number})
            losses.append(kept.get(cells[-1], partial(in_fresh_process, measured, cells[-1], options.threads)))
        for measure in options.measures:
            seconds = []
            for processes in range(1, options.processes + 1):
                cells.append({**fixed, "measure": measure, "processes": processes})
                with tempfile.TemporaryDirectory() as folder:
                    file = str(Path(folder) / "losses.json")
                    job = partial(in_fresh_process, analysed if processes == 1 else in_two, cells[-1], options.threads)
                    found = kept.get(cells[-1], partial(job, file))
                seconds.append(found["seconds"])
            table = LossTable.from_dict(found["table"])
            agreement = correlation(model, table, losses[1:])
            speed_up = f"{seconds[0] / seconds[1]:.2f}" if len(seconds) > 1 else ""
            rows.append(
                (model, measure, f"{agreement:.2f}", f"{seconds[0]:.0f} s", speed_up, f"{found['peak'] / 1e6:.0f} MB")
            )
    print(
        f"{kept.measured_on(cells)}; {options.plans} random plans, {len(SCHEMES)} schemes, {options.samples} samples\n"
    )
    print("| model | measure | rank correlation | time | speed-up of two processes | peak anonymous memory |")
    print("|---|---|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
