"""Memory of codes that a kernel has laid out anew: given back, stood in for, and kept for a process that starts."""

from __future__ import annotations

import ctypes
import sys
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

_PAGE = 4096
_MADV_PAGEOUT = 21


def page_out(tensor: torch.Tensor) -> None:
    """Advise Linux to reclaim the pages that lie wholly within a CPU tensor.

    The codes of a checkpoint are mapped from its file; once a kernel has its own layout of them, their pages would
    stay resident for nothing. Advice only: contents are untouched, and pages come back when they are read. Elsewhere,
    or where the advice is not known, nothing happens.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // _PAGE) * _PAGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _PAGE * _PAGE
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_PAGEOUT)


def stand_in(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int32 zeros of a shape that take the memory of a single number."""
    return torch.zeros(1, dtype=torch.int32, device=device).expand(shape)


def until_spawned(tensors: Any) -> None:
    """Hold `tensors` for as long as the process that is being spawned, if one is, may still open their memory.

    What is pickled for it is not their numbers but a handle of memory that both processes share, which is closed with
    the last tensor on it.
    """
    process = get_spawning_popen()
    if process is not None:
        process.__dict__.setdefault("_hf_quant_held", []).append(tensors)
