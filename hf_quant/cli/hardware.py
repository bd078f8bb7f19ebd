"""``hf-quant hardware``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hf_quant.cli.hardware_profiles import cells_table, list_table, profile_table
from hf_quant.errors import ConfigError
from hf_quant.hardware.profiles import get_profile
from hf_quant.kernels.native.library import ISA_VARIABLE, NEEDS
from hf_quant.planner.cost.measured_profile import with_measured_rates
from hf_quant.planner.cost.table_file import cached_table, write_table
from hf_quant.workflows.hardware import HardwareReport, hardware_report
from hf_quant.workflows.measure_hardware import kernel_table


def run(
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the kernels here, and keep the table in the cache directory.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With --measure: few shapes, in about a minute.")] = False,
    output: Annotated[Path | None, typer.Option(help="With --measure: write the table to this JSON file, too.")] = None,
    profile: Annotated[str | None, typer.Option(help="Show a profile that plans can be made for.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the profiles.")] = False,
) -> None:
    """Show this machine's instruction sets, which kernel runs each op and preset, and why no faster one does.

    For example:

        hf-quant hardware

        hf-quant hardware --measure --output kernels.json

        hf-quant hardware --profile raspberry-pi-5

        HF_QUANT_KERNEL=aten_dequantize hf-quant hardware

        HF_QUANT_ISA=avx2 hf-quant hardware
    """
    if measure + listed + (profile is not None) > 1:
        raise ConfigError("give one of --measure, --profile and --list")
    if (quick or output is not None) and not measure:
        raise ConfigError("--quick and --output go with --measure")
    console = Console()
    if measure:
        _measure(console, quick, output)
        return
    if listed:
        console.print(list_table())
        return
    if profile is not None:
        _profile(console, profile)
        return
    report = hardware_report()
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


def _measure(console: Console, quick: bool, output: Path | None) -> None:
    table = kernel_table(quick, refresh=True)
    if output is not None:
        write_table(table, output)
    console.print(cells_table(table))
    for label, reason in table.skipped.items():
        console.print(f"{label} was left out: {reason}", highlight=False)


def _profile(console: Console, name: str) -> None:
    shown, measured = get_profile(name), cached_table()
    if name == "host" and measured is not None:
        shown = with_measured_rates(shown, measured)
    console.print(profile_table(shown))


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
