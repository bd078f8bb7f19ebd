"""Which kernel runs: the first that can, unless the environment names one; never one of ATen's slow loops."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_quant.errors import KernelError, UnknownName
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, KERNELS, explain, get_kernel, select_kernel
from hf_quant.kernels.native import library
from tests.quantized_linear import (
    CPU,
    DTYPES,
    SCHEMES,
    SHAPES,
    make_input,
    make_operands,
    prepacked,
    run_python,
    spec_for,
)

SPECS = [spec for name in SCHEMES for shape in SHAPES if (spec := spec_for(name, *shape)) is not None]


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)


def test_the_first_kernel_that_can_run_is_taken():
    for spec in SPECS:
        able = [name for name, reason in explain(spec, CPU) if reason is None]
        assert select_kernel(spec, CPU).name == able[0]


def test_the_reference_runs_only_when_asked_for():
    assert list(KERNELS)[-1] == "reference"
    assert all(select_kernel(spec, CPU).name != "reference" for spec in SPECS)


def test_a_neutral_kernel_is_always_to_be_had():
    for spec in SPECS:
        for device in (CPU, torch.device("cuda"), torch.device("mps"), torch.device("meta")):
            assert not select_kernel(spec, device, neutral_only=True).replaces_weight


def test_kernels_for_cpus_are_not_offered_elsewhere():
    for spec in SPECS:
        assert select_kernel(spec, torch.device("mps")).name == "aten_dequantize"


def test_explain_names_every_kernel_and_a_reason_for_each_that_cannot_run():
    for spec in SPECS:
        rows = explain(spec, torch.device("cuda"))
        assert [name for name, _ in rows] == list(KERNELS)
        assert all(reason is None or reason.split()[0] in ("needs", "is") for _, reason in rows)


def test_a_kernel_is_made_once():
    assert all(get_kernel(name) is get_kernel(name) for name in KERNELS)


@pytest.mark.parametrize("name", list(KERNELS))
def test_the_environment_variable_forces_a_kernel(monkeypatch, name):
    monkeypatch.setenv(KERNEL_VARIABLE, name)
    for spec in SPECS:
        if get_kernel(name).unsupported(spec, CPU) is None:
            assert select_kernel(spec, CPU).name == name


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_forced_kernel_that_cannot_run_is_a_typed_error_with_the_reason(monkeypatch, name):
    monkeypatch.setenv(KERNEL_VARIABLE, name)
    for spec in SPECS:
        reason = get_kernel(name).unsupported(spec, CPU)
        if reason is not None:
            with pytest.raises(KernelError) as raised:
                select_kernel(spec, CPU)
            assert f"{KERNEL_VARIABLE}={name}" in str(raised.value) and reason in str(raised.value)


@pytest.mark.parametrize("neutral_only", [True, False])
def test_an_unknown_kernel_in_the_environment_is_a_typed_error(monkeypatch, neutral_only):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_int88")
    with pytest.raises(UnknownName, match="no kernel 'aten_int88'; did you mean 'aten_int8'"):
        select_kernel(SPECS[0], CPU, neutral_only=neutral_only)


def test_an_empty_variable_forces_nothing(monkeypatch):
    usual = select_kernel(SPECS[0], CPU).name
    monkeypatch.setenv(KERNEL_VARIABLE, "")
    assert select_kernel(SPECS[0], CPU).name == usual


def test_tied_weights_keep_their_codes_though_a_kernel_that_replaces_them_is_forced(monkeypatch):
    for name in KERNELS:
        monkeypatch.setenv(KERNEL_VARIABLE, name)
        for spec in SPECS:
            if get_kernel(name).unsupported(spec, CPU) is None:
                assert not select_kernel(spec, CPU, neutral_only=True).replaces_weight


class Calls(TorchDispatchMode):
    """Records the name of every op, and the dtype of its first tensor."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = next((value for value in args if isinstance(value, torch.Tensor)), None)
        self.seen.add((func._schema.name, None if first is None else first.dtype))
        return func(*args, **(kwargs or {}))


SLOW = {
    ("aten::_weight_int8pack_mm", torch.float32),
    ("aten::_weight_int8pack_mm", torch.float16),
    ("aten::_weight_int4pack_mm_for_cpu", torch.float32),
    ("aten::_weight_int4pack_mm_for_cpu", torch.float16),
    *{("aten::_dyn_quant_matmul_4bit", dtype) for dtype in DTYPES},
    ("aten::mm", torch.float16),
    *{("aten::mm", dtype) for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.float64)},
}
"""Ops that are loops over scalars on CPUs, 50 to 100 times slower than a float32 matmul."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_slow_loop_of_aten_is_selected(dtype):
    for spec in SPECS:
        kernel = select_kernel(spec, CPU)
        operands = prepacked(kernel, make_operands(spec), spec)
        for tokens in (1, 40, 70):
            with Calls() as calls:
                kernel.run(make_input(spec, tokens, dtype), operands, spec)
            assert not calls.seen & SLOW, f"{kernel.name} runs {calls.seen & SLOW}"


CHOICES = """
    import json
    import torch
    from hf_quant.hardware.detect import cpu_features
    from hf_quant.kernels.dispatch import select_kernel
    from hf_quant.kernels.native import library
    from tests.quantized_linear import (
        CPU, DTYPES, SCHEMES, SHAPES, make_input, make_operands, prepacked, reference_output, relative_error, spec_for
    )

    chosen, worst = {}, 0.0
    for name in SCHEMES:
        for shape in SHAPES:
            spec = spec_for(name, *shape)
            if spec is None:
                continue
            kernel = select_kernel(spec, CPU)
            chosen.setdefault(name, []).append(kernel.name)
            operands = make_operands(spec)
            for dtype in DTYPES:
                for tokens in (1, 40, 70):
                    input = make_input(spec, tokens, dtype).abs()  # one sign: sums that saturate do so here
                    output = kernel.run(input, prepacked(kernel, operands, spec), spec)
                    worst = max(worst, relative_error(output, reference_output(input, operands, spec)))
    report = {"capability": cpu_features().capability, "isa": library.isa(), "chosen": chosen, "worst": worst}
    print(json.dumps(report))
"""
NEEDS_VECTORS = {"aten_int4pack", "aten_int8pack"}


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    ],
    ids=str,
)
def test_outputs_of_aten_are_right_on_a_lesser_cpu(environment):
    report = json.loads(run_python(CHOICES, HF_QUANT_ISA="none", **environment))
    assert report["worst"] <= 1e-2
    chosen = {kernel for kernels in report["chosen"].values() for kernel in kernels}
    assert chosen <= set(KERNELS) - {"native"}
    if environment.get("ATEN_CPU_CAPABILITY") == "default":
        assert report["capability"] == "DEFAULT" and not chosen & NEEDS_VECTORS
    elif report["capability"] == "AVX2":
        assert chosen >= NEEDS_VECTORS


@pytest.mark.parametrize("isa", library.runnable_isas())
def test_outputs_are_right_with_every_instruction_set_that_runs_here(isa):
    report = json.loads(run_python(CHOICES, HF_QUANT_ISA=isa))
    # Half precision rounds the output.
    assert report["isa"] == isa and report["worst"] <= 1e-2
    assert "native" in {kernel for kernels in report["chosen"].values() for kernel in kernels}
