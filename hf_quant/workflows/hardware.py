"""What this machine offers, and which kernel runs what on it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.hardware.detect import CpuFeatures, cpu_features, cpu_name
from hf_quant.kernels.base import LinearSpec
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, explain, get_kernel, select_kernel
from hf_quant.kernels.native import library

NATIVE = "native"

OPS = {
    "quantize": ("weights to codes while a model loads", "torch"),
    "native_linear": ("quantized linears and heads", "by preset, see below"),
    "native_linears": ("query, key and value in one call", "one by one"),
    "native_block": ("feed-forward blocks; a residual and its norm", "module by module"),
    "native_experts": ("experts, on the tokens that are sent to each", "expert by expert"),
    "native_recurrent": ("LSTM and GRU, all time steps of a layer in one call", "step by step"),
    "native_convolution": ("convolutions, with the batch norm and activation after them", "as products of patches"),
    "native_grouped_convolution": ("convolutions in groups, inputs of 8 bits", "torch, on rounded inputs"),
    "native_embedding": ("rows of quantized embeddings", "torch"),
    "native_norm": ("RMS norms", "torch"),
    "native_attention": ("attention, where a model would use sdpa", "torch"),
}
"""Ops of the native library to what they compute in a quantized model, and what does so without the library."""

_WITHOUT_DISPATCH = ("quantize",)
"""Ops that do not depend on the kernel of a linear."""


@dataclass(frozen=True)
class OpChoice:
    """What runs one op of the native library on this machine.

    Args:
        op: Name of the op.
        computes: What the op computes, in words.
        kernel: What runs the op: ``"native"``, or what runs instead, in words.
    """

    op: str
    computes: str
    kernel: str


@dataclass(frozen=True)
class KernelChoice:
    """The kernel of one preset on this machine.

    Args:
        preset: Name of the preset.
        scheme: Scheme of the preset's linears, for a layer of 768 inputs and outputs.
        kernel: Name of the kernel; ``"torch"`` where weights are plain floats, None where the forced kernel cannot run.
        passed_over: Names of kernels before the chosen one in the table, to the reason why they were not chosen.
    """

    preset: str
    scheme: str
    kernel: str | None
    passed_over: dict[str, str]


@dataclass(frozen=True)
class HardwareReport:
    """Facts about this machine and its kernels.

    Args:
        cpu: Model name of the processor.
        features: Features of the processor that decide between kernels.
        threads: Number of threads that torch computes with.
        native_threads: Number of threads that the native library computes with: torch's, or 1 if it cannot share them.
        native_isa: Instruction set that the native library uses; None where there is no library.
        native_absence: Why there is no native library, as the end of a sentence; None where there is one.
        runnable_isas: Instruction sets that this machine runs and the library was built for, best first.
        forced_kernel: Value of the environment variable that overrides the choice of kernels; None when unset.
        ops: One entry per op of the native library.
        choices: One entry per preset.
    """

    cpu: str
    features: CpuFeatures
    threads: int
    native_threads: int
    native_isa: str | None
    native_absence: str | None
    runnable_isas: tuple[str, ...]
    forced_kernel: str | None
    ops: tuple[OpChoice, ...]
    choices: tuple[KernelChoice, ...]


def hardware_report() -> HardwareReport:
    """Detect the machine and ask the dispatcher about every preset.

    Raises:
        UnknownName: The environment variable names no kernel.
        KernelError: The environment variable names no instruction set, or one that does not run here.
    """
    threads, native = torch.get_num_threads(), library.load()
    return HardwareReport(
        cpu=cpu_name(),
        features=cpu_features(),
        threads=threads,
        native_threads=threads if native is not None and native.hf_quant_has_threads() else 1,
        native_isa=library.isa(),
        native_absence=library.absence(),
        runnable_isas=tuple(library.runnable_isas()),
        forced_kernel=os.environ.get(KERNEL_VARIABLE) or None,
        ops=tuple(map(_op, OPS)),
        choices=tuple(map(_choice, PRESETS)),
    )


def _op(name: str) -> OpChoice:
    computes, otherwise = OPS[name]
    # Blocks, norms and attention are native in models that have linears on native kernels.
    forced = os.environ.get(KERNEL_VARIABLE) or NATIVE
    is_native = library.load() is not None and (forced == NATIVE or name in _WITHOUT_DISPATCH)
    return OpChoice(name, computes, NATIVE if is_native else otherwise)


def _choice(preset: str) -> KernelChoice:
    scheme = fit(PRESETS[preset].linear, Candidate("linear", 768), preset)
    if not scheme.weight.has_scales:
        return KernelChoice(preset, str(scheme), "torch", {})
    spec, device = LinearSpec(scheme, 768, 768), torch.device("cpu")
    forced = os.environ.get(KERNEL_VARIABLE)
    if forced and (reason := get_kernel(forced).unsupported(spec, device)) is not None:
        return KernelChoice(preset, str(scheme), None, {forced: reason})
    chosen = select_kernel(spec, device).name
    passed = {}
    for name, reason in explain(spec, device):
        if name == chosen:
            break
        passed[name] = reason or "not chosen: overridden"
    return KernelChoice(preset, str(scheme), chosen, passed)
