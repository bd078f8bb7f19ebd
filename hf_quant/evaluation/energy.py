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
    """A counter of energy."""

    name: str
    """For people."""

    def read(self) -> list[int]:
        """The state of the counters."""

    def joules(self, start: list[int], end: list[int]) -> float:
        """Between two states."""


class RaplMeter:
    """Processor packages, by the kernel's powercap files; each counts microjoules and begins anew at its range.

    Args:
        root: Folder of the zones.

    Raises:
        OSError: There are no packages, or this user may not read them.
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
        """Microjoules of each package."""
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules(self, start: list[int], end: list[int]) -> float:
        """Of all packages; a counter may have begun anew once in between."""
        # A counter goes up to its range, and then to 0.
        spent = ((after - before) % (top + 1) for before, after, top in zip(start, end, self.ranges, strict=True))
        return sum(spent) / 1e6


class NvmlMeter:
    """One NVIDIA GPU, by the driver's library.

    Args:
        index: Of the device, as torch counts.

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
        """Millijoules since the driver was loaded."""
        return [int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))]

    def joules(self, start: list[int], end: list[int]) -> float:
        """Of the GPU."""
        return (end[0] - start[0]) / 1e3


def meter_for(device: torch.device, root: Path = POWERCAP) -> tuple[Meter | None, str]:
    """What counts the energy of work on `device`, and its name; or None, and why nothing does.

    Args:
        device: CPUs are read by RAPL, CUDA devices by NVML.
        root: Folder of RAPL's zones.
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
