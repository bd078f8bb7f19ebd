"""Joules, where the machine counts them: RAPL for processor packages, NVML for GPUs.

Both counters are of the whole device, whatever else runs on it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")

NOT_READABLE = "not readable here"


class Meter(Protocol):
    """A device's counter of energy."""

    name: str
    """Name of the counter, for reports."""

    def read(self) -> list[int]:
        """Current values of the device's counters."""

    def joules(self, start: list[int], end: list[int]) -> float:
        """Joules spent between two readings."""


class RaplMeter:
    """Energy of all processor packages, by the kernel's powercap files: microjoules that wrap at a counter's range.

    Args:
        root: Folder of the powercap zones.

    Raises:
        OSError: There are no packages, or this user may not read their counters.
    """

    name = "RAPL, all processor packages"

    def __init__(self, root: Path = POWERCAP):
        # Zones with two colons are parts of a package, and "psys" is the platform that contains the packages.
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self.zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not self.zones:
            raise FileNotFoundError(f"no processor package in {root}")
        self.ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self.zones]
        self.read()

    def read(self) -> list[int]:
        """Microjoules counted by each package."""
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules(self, start: list[int], end: list[int]) -> float:
        """Joules of all packages between two readings; a counter may have wrapped once in between."""
        # A counter goes up to its range, and then to 0.
        spent = ((after - before) % (top + 1) for before, after, top in zip(start, end, self.ranges, strict=True))
        return sum(spent) / 1e6


class NvmlMeter:
    """Energy of one NVIDIA GPU, by the driver's library NVML.

    Args:
        index: Index of the device, as torch counts devices.

    Raises:
        OSError: The GPU does not count energy, or the driver does not answer.
        ImportError: ``nvidia-ml-py`` is not installed.
    """

    def __init__(self, index: int):
        self.nvml: Any = import_module("pynvml")
        try:
            self.nvml.nvmlInit()
            # By UUID: torch counts the devices that CUDA_VISIBLE_DEVICES leaves, the driver counts all.
            uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            self.handle = self.nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.name = f"NVML, {torch.cuda.get_device_name(index)}"
            self.read()
        except self.nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    def read(self) -> list[int]:
        """Millijoules that the GPU has spent since the driver was loaded."""
        return [int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))]

    def joules(self, start: list[int], end: list[int]) -> float:
        """Joules of the GPU between two readings."""
        return (end[0] - start[0]) / 1e3


def meter_for(device: torch.device, root: Path = POWERCAP) -> tuple[Meter | None, str]:
    """The energy counter for work on a device, and its name; or None, and why there is none.

    Args:
        device: Device of the work; CPUs are read by RAPL, CUDA devices by NVML.
        root: Folder of RAPL's powercap zones.
    """
    try:
        if device.type == "cpu":
            meter: Meter = RaplMeter(root)
        elif device.type == "cuda":
            meter = NvmlMeter(torch.cuda.current_device() if device.index is None else device.index)
        else:
            return None, f"{NOT_READABLE}: no counter for {device.type}"
    except ImportError:
        return None, f'{NOT_READABLE}: NVML needs nvidia-ml-py, pip install "hf-quant[energy]"'
    except PermissionError:
        return None, f"{NOT_READABLE}: only root may read RAPL's counters in {root}"
    except OSError as error:
        return None, f"{NOT_READABLE}: {error}"
    return meter, meter.name
