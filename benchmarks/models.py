"""Whole models in every variant, against Transformers in float32, with random weights at the shapes of real models.

Every variant is held in a process of its own and all have their turn in every round, one at a time; times are medians
and ratios are medians over rounds of float32's time to the variant's. `error` is the distance of the outputs (last
hidden states, or the logits after the prompt) from float32's: on random weights it shows that the same network was
computed, not how good a format is. `of bandwidth` is the weights that a token reads, per second, over what the machine
can read, measured in the same rounds.

Other libraries are measured where the interpreter named by --peers-python has them: torchao; OpenVINO with nncf and
optimum-intel; ONNX Runtime with optimum-onnx; llama.cpp with gguf, and its shared libraries where --llama-cpp says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.checkpoints import LARGE, SHAPES, checkpoint, is_encoder, multiplied_weights
from benchmarks.limits import read_rate
from benchmarks.results import HEADER, Result, result_of, row
from benchmarks.rounds import DECODER_TASKS, ENCODER_TASKS, measure_together, say
from benchmarks.runners.llamacpp_model import FOLDER_VARIABLE
from benchmarks.variants import REFERENCE, VARIANTS
from benchmarks.workers import Worker, WorkerError
from hf_quant.demo.cache import cache_directory
from hf_quant.evaluation.other_processes import OtherProcesses
from hf_quant.hardware.detect import cpu_name

EXAMPLES = """examples:
  python -m benchmarks.models                                      all models but llama-7b
  python -m benchmarks.models --quick --models gpt2                two layers, one round: does everything run?
  python -m benchmarks.models --models llama-1.1b --variants int4 "int4 compiled"
  python -m benchmarks.models --models llama-7b                    INT4 only; writes 14 GB
  python -m benchmarks.models --peers-python ~/peers/bin/python --llama-cpp ~/llama.cpp/build/bin --json models.json
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = [model for model in SHAPES if model not in LARGE]
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(SHAPES),
        default=usual,
        metavar="MODEL",
        help=f"of {', '.join(SHAPES)} (default: {', '.join(usual)})",
    )
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), metavar="NAME", help=f"of {', '.join(VARIANTS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of one turn (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=1200, help="seconds that one answer may take (%(default)s)")
    parser.add_argument("--layers", type=int, help="layers of every model (default: those of the real one)")
    parser.add_argument("--quick", action="store_true", help="2 layers, 1 round, short turns")
    parser.add_argument(
        "--cache", type=Path, default=cache_directory() / "benchmarks", help="folder for models (default: %(default)s)"
    )
    parser.add_argument("--peers-python", metavar="PATH", help="interpreter that has other libraries (default: none)")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="where libllama.so and its backends are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args()
    if options.quick:
        options.layers, options.rounds, options.budget = options.layers or 2, 1, 0.2
    return options


def wanted_variants(model: str, options: argparse.Namespace) -> list[str]:
    """The names of the variants to be measured, the reference first."""
    names = []
    for name, variant in VARIANTS.items():
        takes = variant.encodes if is_encoder(model) else variant.decodes
        asked = name in options.variants if options.variants else options.peers_python or not variant.peer
        if takes and (asked or name == REFERENCE) and (model not in LARGE or variant.largest):
            names.append(name)
    return names


def start(verb: str, name: str, folder: Path, options: argparse.Namespace) -> Worker | None:
    """The worker of a variant; None, and a line that says why, where it does not work."""
    python = options.peers_python if VARIANTS[name].peer and options.peers_python else sys.executable
    try:
        return Worker(verb, name, folder, options.cache / "derived" / folder.name, python, options.limit)
    except WorkerError as error:
        say(f"{folder.name}: {name} {'skipped' if error.skipped else 'FAILED'}: {error}")
        return None


def prepared(name: str, folder: Path, options: argparse.Namespace) -> bool:
    """Whether the files of a variant are there, once this has made them: before models take up memory."""
    if not VARIANTS[name].peer:
        return True
    worker = start("prepare", name, folder, options)
    if worker is not None:
        worker.close()
    return worker is not None


def measure_model(model: str, options: argparse.Namespace) -> list[Result]:
    """All variants of one model, in as few groups as fit into memory; the reference is in each group."""
    folder = checkpoint(model, options.cache, options.layers)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    names = [name for name in wanted_variants(model, options) if prepared(name, folder, options)]
    reference = None
    if REFERENCE in names:
        names.remove(REFERENCE)
        reference = start("load", REFERENCE, folder, options)
    results: list[Result] = []
    try:
        while True:
            group: list[Worker] = []
            try:
                # A variant may need the float weights while it is made.
                while names and (not group or psutil.virtual_memory().available > 1.5 * size):
                    worker = start("load", names.pop(0), folder, options)
                    if worker is not None:
                        group.append(worker)
                found = measure_group([reference, *group] if reference else group, model, options)
                # Of the reference, what the first group says.
                results += [result for result in found if not (results and result.variant == REFERENCE)]
            finally:
                for worker in group:
                    worker.close()
            if not names:
                return results
    finally:
        if reference:
            reference.close()


def measure_group(workers: list[Worker], model: str, options: argparse.Namespace) -> list[Result]:
    """Results of workers that are in memory together."""
    tasks = ENCODER_TASKS if is_encoder(model) else DECODER_TASKS
    count = multiplied_weights(model, options.layers)
    rounds = measure_together(workers, model, tasks, options.rounds, options.budget)
    expected, results = None, []
    for worker in workers:
        if worker.variant not in rounds.times:
            continue
        worker.ask(**tasks[0], budget=0.0)
        output, weights = worker.output(), worker.ask("weights")
        read = weights["bytes"] or count * weights["bits"] / 8
        if worker.variant == REFERENCE:
            expected = output
        base = rounds.times.get(REFERENCE, {})
        for measure, seconds in rounds.times[worker.variant].items():
            result = result_of(model, worker.variant, measure, seconds, base.get(measure), read, rounds.bandwidth)
            results.append(result.with_error(output, expected))
    return results


def main() -> None:
    options = parse()
    os.environ[FOLDER_VARIABLE] = str(options.llama_cpp or "")
    others, bandwidth = OtherProcesses(), read_rate()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s; models in {options.cache}")
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    results = []
    for model in options.models:
        found = measure_model(model, options)
        print("\n".join(map(row, found)), flush=True)
        results += found
    busy = others.cores()
    print(f"\nother processes used {busy:.2f} cores" + (": do not trust these figures" if busy > 0.2 else ""))
    if options.json:
        written = {"bandwidth": bandwidth, "results": [result.to_dict() for result in results]}
        options.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
