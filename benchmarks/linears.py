"""Quantized linears on the native kernels, against `F.linear` in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch.nn import functional

from benchmarks.case import Case, Suite
from benchmarks.shapes import LINEARS, MOST_ROWS_OF_A_HEAD, ROWS, linear_shapes, sizes
from benchmarks.timing import cycle
from hf_quant.algorithms import SOLVERS
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native.linear import NativeKernel

_W8, _W4A8 = PRESETS["int8"].linear, PRESETS["int4"].linear


def _grouped(bits: int, group_size: int | None) -> Scheme:
    assert _W4A8.input is not None
    weight = replace(_W4A8.weight, bits=bits, group_size=group_size)
    return Scheme(weight, replace(_W4A8.input, group_size=group_size))


SCHEMES = {
    "w8a8": _W8,
    "w8a8-unrotated": replace(_W8, weight=replace(_W8.weight, rotation=None)),
    "w8a8-static": Scheme(TensorScheme(bits=8), TensorScheme(symmetric=False, granularity="tensor")),
    "w4a8-g128": _W4A8,
    "w4a8-g32": _grouped(4, 32),
    "w3a8-g128": _grouped(3, None),
    "w2a8-g128": _grouped(2, None),
    "w8a16": PRESETS["w8a16"].linear,
    "w4a16-g128": PRESETS["w4a16"].linear,
}
"""Groups of 128 become those of 64 where the width is no multiple of 128."""


def quantized(scheme: Scheme, width: int, channels: int) -> tuple[LinearSpec, LinearOperands]:
    """A random weight, quantized."""
    scheme = fit(scheme, Candidate("linear", width), "the benchmark")
    solved = SOLVERS["rtn"]().solve(torch.randn(channels, width), scheme.weight, "weight")
    operands = LinearOperands(solved)
    if scheme.input is not None and not scheme.input.dynamic:
        zero_point = torch.tensor([3], dtype=torch.int8)
        operands = replace(operands, input_scale=torch.tensor([0.03]), input_zero_point=zero_point)
    return LinearSpec(scheme, width, channels), operands


def copies_of(read: int, memory: int) -> int:
    """How many copies of `read` bytes it takes for `memory` bytes."""
    return max(1, -(-memory // read))


@lru_cache(maxsize=1)
def float_weights(shape: str, memory: int) -> list[torch.Tensor]:
    """Copies of one weight in float32, the one of `F.linear`."""
    width, channels = sizes(shape)
    weight = torch.randn(channels, width)
    return [weight, *(weight.clone() for _ in range(copies_of(weight.nbytes, memory) - 1))]


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """`op` at `shape`, for each number of rows."""
    width, channels = sizes(shape)
    spec, operands = quantized(SCHEMES[op], width, channels)
    kernel = NativeKernel()
    blocks, *rest = kernel.arguments(kernel.lay_out(operands, spec), operands, spec)
    copies = [(blocks.clone(), *rest) for _ in range(copies_of(blocks.nbytes, memory))]
    for count in rows:
        input = torch.randn(count, width)
        yield Case(
            op=op,
            shape=shape,
            rows=count,
            scheme=str(spec.scheme),
            run=cycle([partial(kernel.fast, input, copy, None, spec) for copy in copies]),
            baseline=cycle([partial(functional.linear, input, weight) for weight in float_weights(shape, memory)]),
            read=blocks.nbytes,
            operations=2 * count * width * channels,
            peak="matmul" if spec.scheme.input is None else "dots",
        )


SUITE = Suite(
    ops=tuple(SCHEMES),
    shapes=tuple(linear_shapes()),
    cases=cases,
    rows=ROWS,
    most_rows={shapes[-1]: MOST_ROWS_OF_A_HEAD for name, shapes in LINEARS.items() if sizes(shapes[-1])[1] > 30000},
)
