"""A kernel table whose times follow a formula, so that predictions can be checked by hand."""

from hf_quant.config.presets import PRESETS
from hf_quant.planner.cost.table import Cell, KernelTable, Machine, Overhead

INT8, INT4 = PRESETS["int8"].linear, PRESETS["int4"].linear
SHAPES = ((64, 64), (64, 128), (128, 128), (256, 512))
TOKENS = (1, 8, 64)
CALL = 0.01
SLOPES = {None: 4e-7, INT8: 1e-7, INT4: 9e-7}
"""Milliseconds a weight and token: INT4 is the one that is slower than float32."""


def formula(scheme, inputs, outputs, tokens):
    return CALL + SLOPES[scheme] * inputs * outputs * tokens


def cell(scheme, shape, tokens):
    milliseconds = formula(scheme, *shape, tokens)
    return Cell(scheme, *shape, tokens, milliseconds, 0.9 * milliseconds, 1.1 * milliseconds, "native")


def table(overheads=()):
    return KernelTable(
        machine=Machine("a machine", 1, "avx2", "native library 2, torch 2"),
        date="2026-01-01T00:00:00+00:00",
        cells=tuple(cell(scheme, shape, tokens) for scheme in SLOPES for shape in SHAPES for tokens in TOKENS),
        overheads=tuple(overheads),
        read=1e10,
        multiply=1e11,
        busy=0.0,
        skipped={"bf16": "emulated"},
    )


LLAMA = Overhead("llama", "fused", block=0.5, block_per_number=1e-5, model=0.25)
LLAMA_FLOAT = Overhead("llama", "float", block=0.7, block_per_number=2e-5, model=0.35)
