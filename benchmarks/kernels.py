"""Every native op at the shapes of real models, against float32 and against what the machine can do.

Each cell times the op and its float32 counterpart in turn. Weights are rotated through more copies than the caches
hold, as a model's layers are, so that a weight has to come from memory. `of limit` is the least time that reading the
bytes and doing the operations takes at the rates that the machine reaches when it does nothing else, measured in turn
with the op, over the time taken. Weight-only ops are held to torch's float32 matmul, which they may beat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from benchmarks import attentions, embeddings, linears, mlps, norms, quantizing
from benchmarks.case import Case, Cell, Suite
from benchmarks.limits import (
    NoLibrary,
    dots_rate,
    matmul_rate,
    multiplying,
    native_library,
    read_rate,
    reading,
    use_isa,
)
from benchmarks.plot import MatplotlibMissing, draw, require_matplotlib
from benchmarks.shapes import QUICK, QUICK_ROWS, ROWS
from benchmarks.summary import summary_lines
from benchmarks.timing import in_turn, median_ratio
from hf_quant.evaluation.other_processes import OtherProcesses
from hf_quant.hardware.detect import cpu_name
from hf_quant.kernels.native.library import ISA_VARIABLE, isa, runnable_isas

EXAMPLES = """examples:
  python -m benchmarks.kernels                                   everything
  python -m benchmarks.kernels --quick                           a look at all ops, in about a minute
  python -m benchmarks.kernels --op w8a8 w4a8-g128 --rows 1 8    two ops, decoding
  python -m benchmarks.kernels --shape 2048x2048 --isa avx2      one shape on a lower instruction set
  python -m benchmarks.kernels --json cells.json --plot cells.svg
  python -m benchmarks.kernels --list                            names of ops, shapes and instruction sets
"""

SUITES = (linears.SUITE, mlps.SUITE, embeddings.SUITE, norms.SUITE, attentions.SUITE, quantizing.SUITE)

HEADER = ("op", "scheme", "shape", "rows", "isa", "ms", "GB/s", "GOP/s", "of limit", "x float32")


def parse() -> argparse.Namespace:
    """The command line, checked."""
    ops = [op for suite in SUITES for op in suite.ops]
    shapes = list(dict.fromkeys(shape for suite in SUITES for shape in suite.shapes))
    isas = runnable_isas()
    forced = [isa()] if os.environ.get(ISA_VARIABLE) else None
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", nargs="+", choices=ops, default=ops, metavar="OP", help="ops (default: all)")
    parser.add_argument("--shape", nargs="+", choices=shapes, default=shapes, metavar="AxB", help="(default: all)")
    parser.add_argument(
        "--isa",
        nargs="+",
        choices=isas,
        default=forced,
        metavar="ISA",
        help="instruction sets (default: the best with all shapes and rows, the others with those of --quick)",
    )
    parser.add_argument(
        "--rows", nargs="+", type=int, choices=ROWS, metavar="N", help=f"tokens (default: {_words(ROWS)})"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side of a cell (default: %(default)s)")
    parser.add_argument("--turn", type=float, default=5, help="milliseconds of one turn (default: %(default)s)")
    parser.add_argument(
        "--memory", type=int, default=256, help="megabytes that copies of a weight add up to (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"shapes {_words(QUICK)}, rows {_words(QUICK_ROWS)}, 3 rounds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write limits, cells and summary")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the share of the limit (.svg, .png, .pdf)")
    parser.add_argument("--list", action="store_true", help="print what there is to choose from")
    options = parser.parse_args()
    try:
        native_library()
        if options.plot:
            require_matplotlib()
    except (NoLibrary, MatplotlibMissing) as error:
        parser.error(str(error))
    if options.list:
        for suite in SUITES:
            rows = f"; rows {', '.join(map(str, suite.rows))}" if any(suite.rows) else ""
            print(f"{', '.join(suite.ops)}\n    at {', '.join(suite.shapes)}{rows}")
        print(f"instruction sets: {', '.join(isas)}")
        sys.exit()
    if options.quick:
        options.rounds, options.turn, options.memory = min(options.rounds, 3), min(options.turn, 2), 128
        options.shape = [shape for shape in options.shape if shape in QUICK] or options.shape
    options.rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    return options


def _words(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def isas_of(case: Case, options: argparse.Namespace) -> list[str]:
    """The instruction sets that `case` is measured with."""
    if options.isa:
        return options.isa
    best, *others = runnable_isas()
    is_quick = case.shape in QUICK and case.rows in (0, *QUICK_ROWS)
    return [best, *others] if is_quick else [best]


def plan(options: argparse.Namespace) -> list[tuple[Suite, str, str, list[int]]]:
    """Suite, op, shape and rows of everything asked for; what shares float32 weights comes together."""
    return [
        (suite, op, shape, rows)
        for suite in SUITES
        for shape in suite.shapes
        for op in suite.ops
        if op in options.op and shape in options.shape and (rows := suite.rows_of(shape, options.rows))
    ]


def measure(case: Case, isa: str, matmul: float, options: argparse.Namespace) -> Cell:
    """One cell; `matmul` is the peak of float32."""
    use_isa(isa)
    works, amounts = {"own": case.run}, {}
    if case.baseline is not None:
        works["baseline"] = case.baseline
    if case.read:
        works["reading"], amounts["reading"] = reading()
    if case.operations and case.peak == "dots":
        works["dots"], amounts["dots"] = multiplying()
    rounds = in_turn(list(works.values()), options.rounds, options.turn / 1e3)
    times = dict(zip(works, zip(*rounds, strict=True), strict=True))
    rates = {name: amount / statistics.median(times[name]) for name, amount in amounts.items()}
    baseline = times.get("baseline")
    return Cell(
        op=case.op,
        scheme=case.scheme,
        shape=case.shape,
        rows=case.rows,
        isa=isa,
        seconds=statistics.median(times["own"]),
        read=case.read,
        operations=case.operations,
        read_rate=rates.get("reading"),
        peak_rate=rates.get("dots", matmul if case.operations else None),
        baseline=statistics.median(baseline) if baseline else None,
        ratio=median_ratio(baseline, times["own"]) if baseline else None,
    )


def machine_limits(isas: list[str]) -> dict[str, float]:
    """Bytes and operations per second."""
    limits = {"read": read_rate(), "float32 matmul": matmul_rate()}
    for name in isas:
        use_isa(name)
        limits[name] = dots_rate()
    return limits


def limit_lines(limits: dict[str, float]) -> list[str]:
    """For people."""
    read, matmul, *dots = (f"{name} {rate / 1e9:.4g}" for name, rate in limits.items())
    return [f"GB/s: {read}; GOP/s: {matmul}, 8-bit {', '.join(dots)}"]


def row(cell: Cell) -> str:
    """A line of the table."""
    values = (
        cell.op,
        cell.scheme,
        cell.shape,
        str(cell.rows or ""),
        cell.isa,
        f"{1e3 * cell.seconds:.4g}",
        f"{cell.read / cell.seconds / 1e9:.1f}" if cell.read else "",
        f"{cell.operations / cell.seconds / 1e9:.0f}" if cell.operations else "",
        "" if cell.of_limit is None else f"{cell.of_limit:.0%}",
        "" if cell.ratio is None else f"{cell.ratio:.2f}",
    )
    return f"| {' | '.join(values)} |"


@torch.inference_mode()
def main() -> None:
    options = parse()
    torch.manual_seed(0)
    others, cells = OtherProcesses(), []
    isas = [name for name in runnable_isas() if name in (options.isa or runnable_isas())]
    limits = machine_limits(isas)
    lines = [f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}", *limit_lines(limits)]
    print("\n".join(lines) + f"\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    with tqdm(plan(options), unit="op", dynamic_ncols=True) as progress:
        for suite, op, shape, rows in progress:
            progress.set_postfix_str(f"{op} {shape}")
            for case in suite.cases(op, shape, rows, options.memory << 20):
                for name in isas_of(case, options):
                    cells.append(measure(case, name, limits["float32 matmul"], options))
                    progress.write(row(cells[-1]), file=sys.stdout)
    busy = others.cores()
    lines += [*summary_lines(cells, isas[0]), f"other processes used {busy:.2f} cores"]
    if busy > 0.2:
        lines.append("the machine was not idle: do not trust these figures")
    print("\n" + "\n".join(lines))
    if options.json:
        rows_of_json = [{**asdict(cell), "of_limit": cell.of_limit} for cell in cells]
        written = {"limits": limits, "summary": lines, "cells": rows_of_json}
        options.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    if options.plot:
        draw(cells, isas[0], options.plot)


if __name__ == "__main__":
    main()
