"""Feed-forward blocks as one native call, against their parts in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.nn import functional

from benchmarks.case import Case, Suite
from benchmarks.linears import SCHEMES, copies_of, quantized
from benchmarks.shapes import MLPS, ROWS, sizes
from benchmarks.timing import cycle
from hf_quant.kernels.native import structs
from hf_quant.kernels.native.layout import pack
from hf_quant.kernels.native.linear import spec_tensor, step_spec

_block_op = torch.ops.hf_quant.native_block.default
_OPS = {"mlp-w8a8": "w8a8", "mlp-w4a8": "w4a8-g128"}


def swiglu(input: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The block of Llama."""
    hidden = functional.silu(functional.linear(input, gate)) * functional.linear(input, up)
    return functional.linear(hidden, down)


def gelu(input: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The block of BERT."""
    return functional.linear(functional.gelu(functional.linear(input, first)), second)


def cases(op: str, shape: str, rows: Sequence[int], memory: int) -> Iterator[Case]:
    """`op` at `shape`, for each number of rows."""
    width, inner = sizes(shape)
    gated = MLPS[shape] == "swiglu"
    parts = [(width, inner)] * (2 if gated else 1) + [(inner, width)]
    made = [quantized(SCHEMES[_OPS[op]], *part) for part in parts]
    steps = [step_spec(operands, spec) for spec, operands in made]
    program = structs.ProgramSpec(magic=structs.MAGIC, count=2)
    program.steps[0], program.steps[1] = steps[0], steps[-1]
    program.steps[0].activation = structs.ACTIVATIONS["silu" if gated else "gelu"]
    if gated:
        program.steps[0].gated, program.steps[0].weight_count = 1, 2
        program.steps[0].weights[1] = steps[1].weights[0]
    packed = [pack(operands, spec) for spec, operands in made]
    read = sum(blocks.nbytes for blocks in packed)
    products = sum(inputs * channels for inputs, channels in parts)
    copies = [[blocks.clone() for blocks in packed] for _ in range(copies_of(read, memory))]
    weights = [torch.randn(channels, inputs) for inputs, channels in parts]
    floats = [[weight.clone() for weight in weights] for _ in range(copies_of(4 * products, memory))]
    # No third weight, no biases, no residual, no norm.
    none = torch.empty(0)
    absent = [none] * (3 - len(packed))
    rest = [spec_tensor(program), *[none] * 6, 0, 0.0, width]
    for count in rows:
        input = torch.randn(count, width)
        yield Case(
            op=op,
            shape=shape,
            rows=count,
            scheme=f"{made[0][0].scheme} {MLPS[shape]}",
            run=cycle([partial(_block_op, input, *blocks, *absent, *rest) for blocks in copies]),
            baseline=cycle([partial(swiglu if gated else gelu, input, *each) for each in floats]),
            read=read,
            operations=2 * count * products,
            peak="dots",
        )


SUITE = Suite(ops=tuple(_OPS), shapes=tuple(MLPS), cases=cases, rows=ROWS)
