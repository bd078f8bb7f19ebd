"""Every preset's kernel at the layer shapes of the three families, against decoding the weight and against float32.

    python -m benchmarks.kernels
    python -m benchmarks.kernels --tokens 1 128 --shapes 768x768 2048x5632

Each cell times, in turn within every round: the kernel that dispatch picks, `F.linear` on the weight decoded whole
(what a quantized module without kernels would do), and float32 `F.linear`. Ratios above 1 mean that the kernel is
faster. Limits are measured first: read bandwidth, and oneDNN's int8 matmul at a size that suits it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from hf_quant.algorithms import SOLVERS
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.hardware.detect import cpu_features, cpu_name
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.dispatch import get_kernel, select_kernel
from hf_quant.kernels.weights import decode_rows, fake_quantize_input

SHAPES = ("768x768", "768x3072", "3072x768", "384x1536", "576x1536", "1536x576", "2048x2048", "2048x5632")


def seconds(work: Callable[[], object], at_least: float = 0.01) -> float:
    """Time of one call, the mean over enough calls to last `at_least` seconds."""
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            work()
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / count
        count = max(2 * count, int(count * at_least / max(elapsed, 1e-6)))


def limits() -> tuple[float, float]:
    """Read bandwidth in bytes per second and int8 operations per second of this machine."""
    block = torch.ones(64 << 20)
    bandwidth = block.nbytes / min(seconds(block.sum) for _ in range(5))
    a, b = torch.ones(1024, 2048, dtype=torch.int8), torch.ones(2048, 2048, dtype=torch.int8)
    peak = 2 * 1024 * 2048 * 2048 / min(seconds(lambda: torch._int_mm(a, b.t())) for _ in range(5))
    return bandwidth, peak


def cell(preset: str, width: int, rows: int, tokens: int, rounds: int, bandwidth: float, peak: float) -> float:
    """Print one line; returns the speed-up over decoding the weight."""
    torch.manual_seed(0)
    weight, input = torch.randn(rows, width), torch.randn(tokens, width)
    scheme = fit(PRESETS[preset].linear, Candidate("linear", width), preset)
    spec = LinearSpec(scheme, width, rows)
    solved = SOLVERS["rtn"]().solve(weight, scheme.weight, "weight")
    operands = LinearOperands(solved.codes, solved.scale, solved.zero_point)
    kernel = select_kernel(spec, torch.device("cpu"))
    packed = replace(operands, packed=kernel.prepack(operands, spec))

    def decoded() -> torch.Tensor:
        return functional.linear(fake_quantize_input(input, operands, spec), decode_rows(operands, spec, slice(None)))

    work = (lambda: ops.linear(input, packed, spec, kernel.name), decoded, lambda: functional.linear(input, weight))
    for function in work:
        function()
    times = [[seconds(function) for function in work] for _ in range(rounds)]
    own = statistics.median(row[0] for row in times)
    over_decoded = statistics.median(row[1] / row[0] for row in times)
    over_float = statistics.median(row[2] / row[0] for row in times)
    error = (get_kernel("reference").run(input, operands, spec) - work[0]()).norm() / work[0]().norm()
    share_bytes = solved.codes.nbytes / own / bandwidth
    share_peak = 2 * tokens * width * rows / own / peak
    print(
        f"| {preset} | {kernel.name} | {width}x{rows} | {tokens} | {1e6 * own:.0f} | {over_decoded:.2f} "
        f"| {over_float:.2f} | {share_bytes:.0%} | {share_peak:.0%} | {error:.1e} |",
        flush=True,
    )
    return over_decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["int8", "w8a16", "int4", "w4a16", "int16"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="inputs x outputs")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 16, 64, 128, 512])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bandwidth, peak = limits()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, {cpu_features()}")
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s, int8 matmul {peak / 1e9:.0f} GOP/s\n")
    print("| preset | kernel | shape | tokens | us | x decoded | x float32 | of bandwidth | of int8 peak | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    worst = float("inf")
    with torch.inference_mode():
        for preset in arguments.presets:
            for shape in arguments.shapes:
                width, rows = map(int, shape.split("x"))
                for tokens in arguments.tokens:
                    worst = min(worst, cell(preset, width, rows, tokens, arguments.rounds, bandwidth, peak))
    print(f"\nlowest speed-up over decoding the weight: {worst:.2f}")


if __name__ == "__main__":
    main()
