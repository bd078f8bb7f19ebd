"""The threads that OpenMP keeps from one parallel region to the next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PAUSE_SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0: settings such as the number of threads stay."""

_WORTH_A_THREAD = 2**15
"""Numbers that one thread lays out in less time than it takes to wake up another."""


def threads_for(numbers: int) -> int:
    """How many of torch's threads are worth having for laying out so many numbers, 1 at least."""
    return max(1, min(torch.get_num_threads(), numbers // _WORTH_A_THREAD))


@contextmanager
def no_threads_left() -> Iterator[None]:
    """Context, or decorator, after which a forked process can compute: `end_threads`, whatever happens inside.

    For what computes without being asked for results, such as loading: a float model that was loaded leaves no threads
    behind either.
    """
    try:
        yield
    finally:
        end_threads()


def end_threads() -> None:
    """End the threads that OpenMP keeps for the calling thread; its next parallel region starts new ones.

    A forked process inherits what libgomp has noted of these threads, but not the threads: its first parallel region
    would wait for them for ever. Costs a fraction of a millisecond.
    """
    # Where torch computes with one thread nothing was started. What libgomp has noted may then be of the process that
    # forked this one, and waiting for those threads to end would take for ever, too.
    if not hasattr(os, "fork") or torch.get_num_threads() == 1:
        return
    # Missing where torch has another pool than that of OpenMP. LLVM's and Intel's runtimes see to forks themselves.
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_PAUSE_SOFT)
