"""A profile of the machine at hand with the rates that a kernel table holds."""

from __future__ import annotations

from dataclasses import replace

from hf_quant.errors import ConfigError
from hf_quant.hardware.detect import cpu_name
from hf_quant.hardware.profile import Figure, Profile
from hf_quant.planner.cost.table import Cell, KernelTable


def with_measured_rates(profile: Profile, table: KernelTable) -> Profile:
    """A hardware profile whose rates are replaced by those that a kernel table measured.

    The rate of 8-bit integers is that of the fastest linear that was measured with 8-bit inputs, calls and the rounding
    of inputs included: what a model gets, not what the processor could.

    Args:
        profile: Profile of this machine, named ``host``.
        table: Kernel times measured on this machine.

    Raises:
        ConfigError: The table is of another processor.
    """
    if table.machine.cpu != cpu_name():
        raise ConfigError(f"the kernel table is of {table.machine.cpu}, this is {cpu_name()}")
    source = f"hf-quant hardware --measure, {table.date}, {table.machine.threads} threads"
    integer = [cell for cell in table.cells if cell.scheme is not None and cell.scheme.input is not None]
    best = max(map(_operations, integer), default=None)
    return replace(
        profile,
        bandwidth=Figure(table.read, "measured", source),
        fp32=Figure(table.multiply, "measured", source),
        int8=None if best is None else Figure(best, "measured", source),
    )


def _operations(cell: Cell) -> float:
    return 2e3 * cell.inputs * cell.outputs * cell.tokens / cell.milliseconds
