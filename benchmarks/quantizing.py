"""Float weights to codes, and codes to the layout of the kernels: what loading a model waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks.case import Case, Suite
from benchmarks.linears import SCHEMES, float_weights, quantized
from benchmarks.shapes import sizes
from benchmarks.timing import Work, cycle
from hf_quant.kernels.native.layout import pack
from hf_quant.kernels.native.weights import quantize_rows

_TRIALS, _NARROWEST = 20, 0.5
"""Of the search for the range with the least squared error."""

OPS = {
    "quantize-w8": ("w8a8-unrotated", 0),
    "quantize-w8-rotated": ("w8a8", 0),
    "quantize-w8-mse": ("w8a8-unrotated", _TRIALS),
    "quantize-w4": ("w4a8-g128", 0),
    "quantize-w4-mse": ("w4a8-g128", _TRIALS),
    "pack-w8": ("w8a8", None),
    "pack-w4": ("w4a8-g128", None),
}
"""Op to the scheme of the weight, and the trials of the search; None for packing."""


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """`op` on a weight of `shape`."""
    name, trials = OPS[op]
    spec, operands = quantized(SCHEMES[name], *sizes(shape))
    weights = float_weights(shape, memory)
    run: Work
    if trials is None:
        run, read = partial(pack, operands, spec), operands.weight["codes"].nbytes
    else:
        scheme = spec.scheme.weight
        zeros = None if scheme.symmetric else torch.empty(spec.scale_shape, dtype=torch.int8)
        into = operands.weight["codes"], operands.weight["scale"], zeros
        run = cycle([partial(quantize_rows, weight, scheme, *into, trials, _NARROWEST) for weight in weights])
        read = weights[0].nbytes
    yield Case(op=op, shape=shape, rows=0, scheme=str(spec.scheme), run=run, baseline=None, read=read)


SUITE = Suite(ops=tuple(OPS), shapes=("768x3072", "2048x2048", "2048x5632"), cases=cases, rows=(0,))
