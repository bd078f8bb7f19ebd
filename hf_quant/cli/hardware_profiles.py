"""What ``hf-quant hardware`` prints of profiles and kernel tables."""

from __future__ import annotations

import itertools

from rich.table import Table

from hf_quant.hardware.profile import Figure, Profile
from hf_quant.hardware.profiles import PROFILES, get_profile
from hf_quant.planner.cost.interpolate import Interpolation
from hf_quant.planner.cost.table import FLOAT, Cell, KernelTable

_UNITS = {"bandwidth": (1e9, "GB/s"), "memory": (1e9, "GB")}
_OPERATIONS = (1e9, "GOP/s")
_WIDE = 0.2
_CAPTION = f"milliseconds, medians; ~ quartiles more than {_WIDE:.0%} apart, ! slower than {FLOAT}"


def list_table() -> Table:
    """Table of all hardware profiles, one in each row."""
    table = Table("profile", "what it is", "start from", "fast")
    for name in PROFILES:
        profile = get_profile(name)
        table.add_row(name, profile.summary, profile.preferred, ", ".join(profile.fast))
    return table


def profile_table(profile: Profile) -> Table:
    """Table of one hardware profile, each figure with its source."""
    table = Table(profile.name, profile.summary, "source")
    table.add_row("device", profile.device, "")
    table.add_row("schemes", ", ".join(profile.schemes), "")
    table.add_row("fast", ", ".join(profile.fast), "computed with as they are stored; others are decoded first")
    table.add_row("start from", profile.preferred, "")
    table.add_row("alignment", str(profile.alignment), "channels")
    table.add_row("scales", "per channel only" if profile.per_channel else "per channel or group", "")
    for name, figure in profile.figures().items():
        table.add_row(name, _figure(name, figure), "" if figure is None else f"{figure.kind}: {figure.source}")
    return table


def cells_table(kernels: KernelTable) -> Table:
    """Table of kernel times in milliseconds, by scheme, shape and tokens; times slower than float32 are marked."""
    interpolation = Interpolation(kernels)
    cells = {(cell.scheme, cell.inputs, cell.outputs, cell.tokens): cell for cell in kernels.cells}
    shapes = list(dict.fromkeys((cell.inputs, cell.outputs) for cell in kernels.cells))
    tokens = sorted({cell.tokens for cell in kernels.cells})
    table = Table("scheme", "shape", title=_title(kernels, interpolation), caption=_CAPTION)
    for count in tokens:
        table.add_column(f"{count} tok", justify="right", no_wrap=True)
    for scheme, shape in itertools.product(kernels.schemes(), shapes):
        texts = []
        for count in tokens:
            cell = cells.get((scheme, *shape, count))
            slower = scheme is not None and interpolation.is_slower_than_float(scheme, *shape, count)
            texts.append("" if cell is None else _time(cell, slower))
        if any(texts):
            table.add_row(FLOAT if scheme is None else str(scheme), f"{shape[0]}x{shape[1]}", *texts)
    return table


def _time(cell: Cell, slower: bool) -> str:
    spread = "~" * (cell.high - cell.low > _WIDE * cell.milliseconds)
    return f"{spread}{cell.milliseconds:.3g}" + "!" * slower


def _title(kernels: KernelTable, interpolation: Interpolation) -> str:
    error, machine = interpolation.error(), kernels.machine
    between = f"; shapes left out are predicted within {error.median:.0%} (median of {error.count})" * bool(error.count)
    busy = f"; other processes used {kernels.busy:.1f} cores: doubtful" if kernels.busy > 0.2 else ""
    return f"{machine.cpu}, {machine.threads} threads, {machine.isa}, {kernels.date}{between}{busy}"


def _figure(name: str, figure: Figure | None) -> str:
    if figure is None:
        return "not known"
    divisor, unit = _UNITS.get(name, _OPERATIONS)
    return (
        f"{figure.value / divisor:,.4g} {unit}"
        if figure.value / divisor < 1e4
        else f"{figure.value / divisor:,.0f} {unit}"
    )
