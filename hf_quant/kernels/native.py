"""The native library: found, loaded after torch, and checked."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch  # noqa: F401 - first, so that the library shares torch's runtimes rather than bringing its own

ABI_VERSION = 1

_NAME = {"win32": "libhf_quant_kernels.dll"}.get(sys.platform, "libhf_quant_kernels.so")


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, or None where the package was installed without a compiler or the library is not for this one."""
    path = _find()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.hf_quant_abi_version.restype = ctypes.c_int32
    except (OSError, AttributeError):
        return None
    return library if library.hf_quant_abi_version() == ABI_VERSION else None


def _find() -> Path | None:
    beside = Path(__file__).with_name(_NAME)
    if beside.exists():
        return beside
    # An editable install keeps the sources here and what was compiled in site-packages.
    try:
        files = metadata.files("hf-quant") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(entry.locate())) for entry in files if entry.name == _NAME), None)
