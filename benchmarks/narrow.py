"""What bounds the 8-bit and 4-bit kernels on narrow layers and many tokens.

    python -m benchmarks.narrow

Times linears with 768 outputs for 256 to 3072 inputs, in turn with dot products in registers, and fits a line through
them: the slope is the inner loop, beside the peak of the machine; what is left at no inputs is what every output costs
(its scales and zero points, its store) together with the call.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import numpy as np

from benchmarks import linears
from benchmarks.limits import multiplying, use_isa
from benchmarks.timing import in_turn
from hf_quant.kernels.native.library import ISAS

_OUTPUTS = 768
_INPUTS = (256, 512, 768, 1536, 3072)
_MEMORY = 64 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="+", choices=linears.SCHEMES, default=["w8a8", "w8a8-static", "w4a8-g128"])
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 512], help="tokens (default: 128 512)")
    parser.add_argument("--isa", choices=ISAS, help="instruction set (default: the best)")
    options = parser.parse_args()
    if options.isa:
        use_isa(options.isa)
    dots, operations = multiplying()
    widths = " | ".join(f"{width} inputs" for width in _INPUTS)
    print(f"| op | tokens | {widths} | inner loop, of peak | rest, of the time at 768 |")
    print("|" + "---|" * (4 + len(_INPUTS)))
    for op in options.op:
        for rows in options.rows:
            cases = [next(iter(linears.cases(op, f"{width}x{_OUTPUTS}", [rows], _MEMORY))) for width in _INPUTS]
            turns = in_turn([*(case.run for case in cases), dots], rounds=9, at_least=0.01)
            *seconds, dot_seconds = (statistics.median(turn) for turn in zip(*turns, strict=True))
            peak = operations / dot_seconds
            of_peak = partial(_share, peak)
            slope, rest = np.polyfit(_INPUTS, seconds, 1)
            cells = " | ".join(of_peak(case.operations, time) for case, time in zip(cases, seconds, strict=True))
            inner = of_peak(2 * rows * _OUTPUTS, slope)
            at_768 = seconds[_INPUTS.index(768)]
            print(f"| {op} | {rows} | {cells} | {inner} | {max(0.0, rest) / at_768:.0%} |", flush=True)


def _share(peak: float, operations: float, seconds: float) -> str:
    return f"{operations / seconds / peak:.0%}"


if __name__ == "__main__":
    main()
