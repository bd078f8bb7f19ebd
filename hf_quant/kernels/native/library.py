"""The native library: found, loaded after torch, checked, and told which instruction set to use."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

from hf_quant.errors import KernelError
from hf_quant.kernels.native import ops, structs
from hf_quant.registry import unknown

logger = logging.getLogger(__name__)

ABI_VERSION = 6
ISA_VARIABLE = "HF_QUANT_ISA"
"""Environment variable that forces a lower instruction set, or "none" of the native kernels; read at the first load."""

ISAS = {"neon-i8mm": 5, "neon-dotprod": 4, "avx512-vnni": 3, "avx2-vnni": 2, "avx2": 1, "portable": 0}
"""Instruction sets by preference, to their numbers in the library."""

NEEDS = {
    "neon-i8mm": "aarch64 with NEON dot products and i8mm",
    "neon-dotprod": "aarch64 with NEON dot products",
    "avx512-vnni": "x86-64 with AVX-512 (F, BW, DQ, VL) and its VNNI",
    "avx2-vnni": "x86-64 with AVX2, FMA, F16C and AVX-VNNI",
    "avx2": "x86-64 with AVX2, FMA and F16C",
    "portable": "any",
}
"""Instruction set to the processor that it takes, in words."""

_NAME = "libhf_quant_kernels.so"


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, ready for calls; None where the package was installed without a compiler, or it does not fit.

    Raises:
        KernelError: The environment variable names an instruction set that is not known or does not run here.
    """
    if os.environ.get(ISA_VARIABLE) == "none":
        logger.warning(
            "hf_quant runs on torch's own kernels, which are slower, because of %s=none: unset it", ISA_VARIABLE
        )
        return None
    for path in _candidates():
        library = _open(path)
        if library is not None:
            library.hf_quant_use_isa(ISAS[_choose_isa(library)])
            return library
    logger.warning(
        "hf_quant runs on torch's own kernels, which are slower: no native library fits. It is built on installation "
        "where there is a C++ compiler (g++ or clang++): pip install --force-reinstall --no-deps hf-quant"
    )
    return None


@lru_cache(maxsize=1)
def absence() -> str | None:
    """Why `load` gives no library, as the end of a sentence; None where it gives one."""
    if load() is not None:
        return None
    if os.environ.get(ISA_VARIABLE) == "none":
        return f"which {ISA_VARIABLE}=none turns off"
    if not any(_candidates()):
        return "which is built on installation where there is a C++ compiler"
    return "and the one that was built fits another version of this package or of torch"


def isa() -> str | None:
    """The instruction set in use; None without a library."""
    library = load()
    return None if library is None else _choose_isa(library)


def runnable_isas() -> list[str]:
    """Instruction sets that this machine runs and the library was built for, best first."""
    library = load()
    return [] if library is None else [name for name in ISAS if library.hf_quant_isa_runs(ISAS[name])]


def _choose_isa(library: ctypes.CDLL) -> str:
    runs = [name for name in ISAS if library.hf_quant_isa_runs(ISAS[name])]
    forced = os.environ.get(ISA_VARIABLE)
    if not forced:
        return runs[0]
    if forced not in ISAS:
        raise KernelError(f"{ISA_VARIABLE}: " + unknown("instruction set", forced, ISAS))
    if forced not in runs:
        raise KernelError(f"{ISA_VARIABLE}={forced} does not run on this machine; these do: {', '.join(runs)}")
    return forced


def _open(path: Path) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(path))
        library.hf_quant_abi_version.restype = ctypes.c_int32
        if library.hf_quant_abi_version() != ABI_VERSION:
            return None
        structs.declare(library)
        assert ops.SCHEMAS  # defined before they are implemented
        # By path and after torch, so that the ops go to the dispatcher of this very torch.
        torch_library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
        return library if library.hf_quant_register_ops(str(torch_library).encode()) == 0 else None
    except (OSError, AttributeError):
        return None


def _candidates() -> Iterator[Path]:
    beside = Path(__file__).parents[1] / _NAME
    if beside.exists():
        yield beside
    # An editable install keeps the sources here and what was compiled in site-packages.
    try:
        files = metadata.files("hf-quant") or []
    except metadata.PackageNotFoundError:
        return
    yield from (Path(str(entry.locate())) for entry in files if entry.name == _NAME)
