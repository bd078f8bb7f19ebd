"""Kernel tables on disk: a file the user names, or one a machine in the cache directory."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

from hf_quant.errors import ConfigError
from hf_quant.hardware.detect import cpu_name
from hf_quant.kernels.native.library import ABI_VERSION, isa
from hf_quant.planner.cost.table import TABLE_VERSION, KernelTable, Machine
from hf_quant.reporting.json_file import write_text


def this_machine() -> Machine:
    """The machine, library and number of threads here and now, which a kernel table has to be of."""
    return Machine(
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        isa=isa() or "none",
        library=f"native library {ABI_VERSION}, torch {torch.__version__}",
    )


def cached_file(machine: Machine, quick: bool = False) -> Path:
    """Path of a machine's cached table, in ``$HF_QUANT_CACHE`` or ``~/.cache/hf_quant``; nothing is created."""
    named = os.environ.get("HF_QUANT_CACHE")
    folder = Path(named).expanduser() if named else Path.home() / ".cache" / "hf_quant"
    identity = json.dumps([TABLE_VERSION, machine.cpu, machine.threads, machine.isa, machine.library, quick])
    return folder / "kernel_tables" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def write_table(table: KernelTable, file: Path) -> None:
    """Write a kernel table to a file, whole or not at all.

    Raises:
        SaveError: The file cannot be written; what was there is as it was.
    """
    write_text(file, json.dumps(table.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_table(file: Path) -> KernelTable:
    """Read a kernel table from a file.

    Raises:
        ConfigError: The file cannot be read, or holds no table of this version.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as a kernel table: {error}") from error
    try:
        return KernelTable.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def cached_table() -> KernelTable | None:
    """This machine's cached kernel table, the thorough one if there are two; None if there is none that can be read.

    A broken cache is measured anew, not reported: nobody wrote it by hand.
    """
    machine = this_machine()
    for quick in (False, True):
        try:
            table = read_table(cached_file(machine, quick))
        except ConfigError:
            continue
        if table.machine == machine:
            return table
    return None
