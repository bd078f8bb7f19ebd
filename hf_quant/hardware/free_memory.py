"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_memory() -> None:
    """Let glibc return free pages, which it keeps for allocations to come; elsewhere, nothing.

    Blocks below 32 MB come from its heap. Where many are freed between others that stay, as in a run over a model,
    hundreds of megabytes of the heap end up unused and resident.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
