"""Root-mean-square norms as one native call, against `F.rms_norm` in float32. What they read is in the caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.nn import functional

from benchmarks.case import Case, Suite
from benchmarks.shapes import NORMS, ROWS
from hf_quant.kernels.native.structs import RMS_NORM

_norm_op = torch.ops.hf_quant.native_norm.default
_EPSILON = 1e-6


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """`op` on rows of the width `shape`."""
    width = int(shape)
    weight, none = torch.randn(width), torch.empty(0)
    for count in rows:
        input = torch.randn(count, width)
        yield Case(
            op=op,
            shape=shape,
            rows=count,
            scheme="FP32",
            run=partial(_norm_op, input, weight, none, RMS_NORM, _EPSILON),
            baseline=partial(functional.rms_norm, input, (width,), weight, _EPSILON),
        )


SUITE = Suite(ops=("rmsnorm",), shapes=NORMS, cases=cases, rows=ROWS)
