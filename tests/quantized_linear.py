"""Real quantized linears for tests: random weights through round to nearest, in every scheme and awkward shapes."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import torch

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import PlanError
from hf_quant.formats import format_of
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.dispatch import get_kernel

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_TOKEN_8 = TensorScheme(granularity="token", dynamic=True)


def _group(bits, size, symmetric=False):
    return TensorScheme(bits=bits, symmetric=symmetric, granularity="group", group_size=size)


SCHEMES = {
    **{name: preset.linear for name, preset in PRESETS.items() if preset.linear.weight.has_scales},
    "w8a8 symmetric": Scheme(TensorScheme(), _TOKEN_8),
    "w4a8 g32 symmetric": Scheme(_group(4, 32, symmetric=True), _TOKEN_8),
    "w8 per tensor": Scheme(TensorScheme(granularity="tensor")),
    "w8a8 per tensor": Scheme(TensorScheme(granularity="tensor"), TensorScheme(granularity="tensor", dynamic=True)),
    "w8a8 static": Scheme(TensorScheme(), TensorScheme(granularity="tensor")),
    "w8a8 static asymmetric": Scheme(TensorScheme(), TensorScheme(granularity="tensor", symmetric=False)),
    "w8a8 asymmetric": Scheme(TensorScheme(symmetric=False), TensorScheme("int", 8, False, "token", dynamic=True)),
    "w8a16 int": Scheme(TensorScheme(), TensorScheme(bits=16, granularity="token", dynamic=True)),
    "w4a8 static g32": Scheme(_group(4, 32), TensorScheme(granularity="tensor")),
    "w4a8 per channel": Scheme(TensorScheme(bits=4), _TOKEN_8),
    "w4 per tensor asymmetric": Scheme(TensorScheme(bits=4, symmetric=False, granularity="tensor")),
    "w4a8 g8": Scheme(_group(4, 8), _TOKEN_8),
    "w3a8 g32": Scheme(_group(3, 32), _TOKEN_8),
    "w2 g64 symmetric": Scheme(_group(2, 64, symmetric=True)),
    "w5a8": Scheme(TensorScheme(bits=5), _TOKEN_8),
    "w6 g32": Scheme(_group(6, 32)),
    "w7a8 per channel asymmetric": Scheme(TensorScheme(bits=7, symmetric=False), _TOKEN_8),
    "w8a8 g64": Scheme(_group(8, 64, symmetric=True), _TOKEN_8),
    "w8a8 float16 scales": Scheme(TensorScheme(scale_dtype="float16"), _TOKEN_8),
    "w4 g32 float16 scales": Scheme(replace(_group(4, 32), scale_dtype="float16")),
    "w4a8 g32 float32 scales": Scheme(replace(_group(4, 32, symmetric=True), scale_dtype="float32"), _TOKEN_8),
    "w8a8 g64 asymmetric float16 scales": Scheme(
        replace(_group(8, 64), scale_dtype="float16"), TensorScheme("int", 8, False, "token", dynamic=True)
    ),
    "w3a8 g32 float32 scales in groups": Scheme(
        replace(_group(3, 32), scale_dtype="float32"), TensorScheme(granularity="group", group_size=32, dynamic=True)
    ),
    "w6 bfloat16 scales": Scheme(TensorScheme(bits=6, symmetric=False, scale_dtype="bfloat16")),
    "nf4 g32": Scheme(TensorScheme("nf4", 4, granularity="group", group_size=32)),
    "nf4 rotated": Scheme(TensorScheme("nf4", 4, rotation=16)),
    "nf4 per tensor": Scheme(TensorScheme("nf4", 4, granularity="tensor", scale_dtype="float16")),
}
"""Scheme of a linear by name: every preset with scales, and what else a plan may ask for."""

SHAPES = ((64, 64), (96, 32), (320, 192), (128, 48), (1, 1), (33, 5), (50, 64), (7, 130), (256, 17))
"""``(in_features, out_features)``: whole blocks of every kernel, and widths that fill no word, vector or block."""


def spec_for(name, in_features, out_features):
    """The spec of one scheme, or None where its group size does not divide the width."""
    try:
        scheme = fit(SCHEMES[name], Candidate("linear", in_features), "linear")
    except PlanError:
        return None
    return LinearSpec(scheme, in_features, out_features)


def make_operands(spec, seed=0, bias=True, dtype=torch.float32):
    """Neutral operands of a random linear, and inputs' static scales where the scheme wants them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(spec.out_features, spec.in_features, generator=generator) + 0.2
    solved = RoundToNearest().solve(weight, spec.scheme.weight, "weight")
    static = {}
    if spec.scheme.input is not None and not spec.scheme.input.dynamic:
        low, high = torch.tensor([-2.5]), torch.tensor([3.0])
        static["input_scale"], static["input_zero_point"] = format_of(spec.scheme.input).scale_and_zero_point(low, high)
    offset = torch.randn(spec.out_features, generator=generator).to(dtype) if bias else None
    return LinearOperands(solved, offset, **static)


def make_input(spec, tokens, dtype=torch.float32, seed=1):
    """``[tokens, in]`` activations whose tokens differ in magnitude."""
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(tokens, spec.in_features, generator=generator)
    return (input * torch.linspace(0.1, 2.0, tokens)[:, None]).to(dtype)


def arguments(kernel, operands, spec):
    """What a call of `kernel` takes: the layout it makes of the weight, and what belongs to it."""
    return kernel.arguments(kernel.lay_out(operands, spec), operands, spec)


def prepacked(kernel, operands, spec):
    """Operands as a module hands them to `kernel`: without the neutral codes where the kernel replaces them."""
    packed = arguments(kernel, operands, spec)
    weight = dict(operands.weight)
    if kernel.replaces_weight:
        weight["codes"] = torch.zeros(1, dtype=torch.int32).expand(weight["codes"].shape)
    return replace(operands, weight=weight, packed=packed)


def reference_output(input, operands, spec):
    """What the exact kernel computes, in float64 where `input` is."""
    return get_kernel("reference").run(input, operands, spec)


def relative_error(output, expected):
    """Norm of the difference over norm of `expected`; 0 where both are 0."""
    difference = (output.double() - expected.double()).norm()
    return 0.0 if difference == 0 else float(difference / expected.double().norm())


def run_python(code, **environment):
    """Standard output of `code` in a Python of its own, under environment variables that are read at start-up."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout
