"""What the CPU at hand can do, as far as the choice of kernels depends on it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class CpuFeatures:
    """Instruction sets that decide between kernels.

    Args:
        capability: Instruction set of ATen's own kernels: ``"AVX512"``, ``"AVX2"``, ``"DEFAULT"``, ...
        vnni: Whether there are int8 dot products without intermediate saturation.
        bf16: Whether vector instructions multiply bfloat16.
        amx: Whether there are tile matrix instructions.
    """

    capability: str
    vnni: bool
    bf16: bool
    amx: bool

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether bfloat16 is faster than float32: without instructions for it, it is emulated many times slower."""
        return self.bf16 or self.amx


@lru_cache(maxsize=1)
def cpu_features() -> CpuFeatures:
    """Features of this machine's CPU; read once."""
    query = torch.cpu
    return CpuFeatures(
        capability=torch.backends.cpu.get_cpu_capability(),
        vnni=bool(query._is_vnni_supported()),
        bf16=bool(query._is_avx512_bf16_supported()),
        amx=bool(query._is_amx_tile_supported()),
    )


def cpu_name() -> str:
    """Model name of the CPU, or the machine type where the system does not tell."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
