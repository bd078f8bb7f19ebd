"""``hf-quant hardware``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from hf_quant.kernels.native.library import ISA_VARIABLE, NEEDS
from hf_quant.workflows.hardware import HardwareReport, hardware_report


def run() -> None:
    """Show this machine's instruction sets, which kernel runs each op and preset, and why no faster one does.

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
    console.print(_native(report), highlight=False)
    if report.forced_kernel:
        console.print(f"Kernel forced by the environment: {report.forced_kernel}", highlight=False)
    if report.native_isa:
        console.print(_instruction_sets(report))
    console.print(_ops(report))
    console.print(_presets(report))


def _native(report: HardwareReport) -> str:
    if report.native_isa is None:
        return f"Native kernels: none. They need the native library, {report.native_absence}"
    threads = f"{report.native_threads} threads, shared with torch"
    if report.native_threads != report.threads:
        threads = "one thread: torch's OpenMP runtime was not found"
    return f"Native kernels for {report.native_isa} ({ISA_VARIABLE} forces one of the others that run), {threads}"


def _instruction_sets(report: HardwareReport) -> Table:
    table = Table("instruction set", "here", "needs")
    for name, needs in NEEDS.items():
        state = "runs" if name in report.runnable_isas else "does not run"
        table.add_row(name, "in use" if name == report.native_isa else state, needs)
    return table


def _ops(report: HardwareReport) -> Table:
    table = Table("op", "for", "in use")
    for choice in report.ops:
        table.add_row(choice.op, choice.computes, choice.kernel)
    return table


def _presets(report: HardwareReport) -> Table:
    table = Table("preset", "linears", "kernel", "passed over")
    for choice in report.choices:
        passed = "\n".join(f"{name}: {reason}" for name, reason in choice.passed_over.items())
        table.add_row(choice.preset, choice.scheme, choice.kernel or "none: forced", passed)
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"
