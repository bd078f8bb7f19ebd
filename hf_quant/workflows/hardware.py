"""What this machine offers, and which kernel each preset gets on it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.hardware.detect import CpuFeatures, cpu_features, cpu_name
from hf_quant.kernels.base import LinearSpec
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, explain, select_kernel
from hf_quant.kernels.native import library


@dataclass(frozen=True)
class KernelChoice:
    """The kernel of one preset on this machine.

    Args:
        preset: Name of the preset.
        scheme: Of its linears, for a layer of 768 inputs and outputs.
        kernel: What runs it; ``"torch"`` where weights are plain floats.
        passed_over: Kernels before it in the table, to the reason why they cannot run it.
    """

    preset: str
    scheme: str
    kernel: str
    passed_over: dict[str, str]


@dataclass(frozen=True)
class HardwareReport:
    """The machine and its kernels.

    Args:
        cpu: Model name.
        features: Instruction sets that decide between kernels.
        threads: Threads that torch computes with.
        native_isa: Instruction set that the package's own compiled kernels use; None where there are none.
        runnable_isas: Those that this machine runs, best first.
        forced_kernel: Value of the environment variable that overrides the choice; None when unset.
        choices: One entry per preset.
    """

    cpu: str
    features: CpuFeatures
    threads: int
    native_isa: str | None
    runnable_isas: tuple[str, ...]
    forced_kernel: str | None
    choices: tuple[KernelChoice, ...]


def hardware_report() -> HardwareReport:
    """Detect the machine and ask the dispatcher about every preset.

    Raises:
        UnknownName: The environment variable names no kernel.
    """
    return HardwareReport(
        cpu=cpu_name(),
        features=cpu_features(),
        threads=torch.get_num_threads(),
        native_isa=library.isa(),
        runnable_isas=tuple(library.runnable_isas()),
        forced_kernel=os.environ.get(KERNEL_VARIABLE) or None,
        choices=tuple(map(_choice, PRESETS)),
    )


def _choice(preset: str) -> KernelChoice:
    scheme = fit(PRESETS[preset].linear, Candidate("linear", 768), preset)
    if not scheme.weight.is_integer:
        return KernelChoice(preset, str(scheme), "torch", {})
    spec, device = LinearSpec(scheme, 768, 768), torch.device("cpu")
    chosen = select_kernel(spec, device).name
    passed = {}
    for name, reason in explain(spec, device):
        if name == chosen:
            break
        passed[name] = reason or "not chosen: overridden"
    return KernelChoice(preset, str(scheme), chosen, passed)
