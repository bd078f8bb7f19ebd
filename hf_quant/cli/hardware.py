"""``hf-quant hardware``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from hf_quant.workflows.hardware import hardware_report


def run() -> None:
    """Show this machine's CPU features, and which kernel each preset uses and why.

    For example:

        hf-quant hardware

        HF_QUANT_KERNEL=aten_dequantize hf-quant hardware

        HF_QUANT_ISA=avx2 hf-quant hardware
    """
    report = hardware_report()
    console = Console()
    features = report.features
    console.print(f"CPU: {report.cpu}, {report.threads} threads", highlight=False)
    console.print(
        f"ATen kernels for {features.capability}; VNNI {_yes(features.vnni)}, bfloat16 {_yes(features.bf16)}, "
        f"AMX {_yes(features.amx)}",
        highlight=False,
    )
    others = ", ".join(name for name in report.runnable_isas if name != report.native_isa)
    console.print(
        f"Native kernels for {report.native_isa}; HF_QUANT_ISA can force {others}"
        if report.native_isa
        else "Native kernels: none. Install from source where there is a C++ compiler to get them",
        highlight=False,
    )
    if report.forced_kernel:
        console.print(f"Kernel forced by the environment: {report.forced_kernel}", highlight=False)
    table = Table("preset", "linears", "kernel", "passed over")
    for choice in report.choices:
        passed = "\n".join(f"{name}: {reason}" for name, reason in choice.passed_over.items())
        table.add_row(choice.preset, choice.scheme, choice.kernel, passed)
    console.print(table)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
