"""Rows of a quantized table, looked up, against `F.embedding` in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.nn import functional

from benchmarks.case import Case, Suite
from benchmarks.linears import copies_of, quantized
from benchmarks.shapes import ROWS, TABLES, sizes
from benchmarks.timing import cycle
from hf_quant.config.presets import PRESETS
from hf_quant.kernels.native.linear import NativeKernel

_MOST_SETS = 4096


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """Random rows, so many sets of them that all together are `memory` bytes, or as many as there are."""
    count, width = sizes(shape)
    spec, operands = quantized(PRESETS["int8"].scheme_for("embedding", width), width, count)
    kernel, like = NativeKernel(), torch.empty(0)
    packed = kernel.arguments(kernel.lay_out(operands, spec), operands, spec)
    table = torch.randn(count, width)
    for wanted in rows:
        sets = min(_MOST_SETS, copies_of(wanted * width, memory))
        indices = list(torch.randint(count, (sets, wanted)))
        yield Case(
            op=op,
            shape=shape,
            rows=wanted,
            scheme=str(spec.scheme),
            run=cycle([partial(kernel.look_up, each, packed, spec, like) for each in indices]),
            baseline=cycle([partial(functional.embedding, each, table) for each in indices]),
            read=wanted * width,
        )


SUITE = Suite(ops=("embedding",), shapes=TABLES, cases=cases, rows=ROWS)
