"""Waiting for moments in which nobody else slows the processor down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

_SLOWER = 1.25
"""Times as long as at best that a probe may take."""

_PAUSE = 0.02
_ATTEMPTS = 3


class Quiet:
    """Times work while the processor is about as fast as it was at best.

    Of what virtual machines share with others, their own operating system sees nothing: the same loop takes 1.6 times
    as long while somebody else computes on the other half of a core, for seconds at a time. A probe, a product of small
    matrices on all threads of torch, tells such times apart. What others take of the memory's bandwidth goes unseen.

    Args:
        patience: Seconds that are waited at most, all together; then everything is timed as it comes.
        best: Seconds of the fastest probe, where another process has found one.
    """

    def __init__(self, patience: float = 60.0, best: float = math.inf):
        self.patience = patience
        self.best = best
        """Seconds of the fastest probe so far."""
        self.timed, self.disturbed = 0, 0
        """How much was timed, and how much of it while the processor was slow, all attempts and patience spent."""
        self._matrix = torch.full((256, 256), 0.5)

    def is_now(self) -> bool:
        """Whether a probe takes about as long as at best; the first one does, if there was none before."""
        found = min(self._probe() for _ in range(3))
        self.best = min(self.best, found)
        return found <= _SLOWER * self.best

    def time(self, work: Callable[[], float]) -> float:
        """What `work` returns, called anew while it was slow before or afterwards and there is patience."""
        self.timed += 1
        for _ in range(_ATTEMPTS):
            self._wait()
            began = time.monotonic()
            seconds = work()
            if self.is_now():
                return seconds
            self.patience -= time.monotonic() - began
            if self.patience <= 0:
                break
        self.disturbed += 1
        return seconds

    def _wait(self) -> None:
        while not self.is_now() and self.patience > 0:
            began = time.monotonic()
            time.sleep(_PAUSE)
            self.patience -= time.monotonic() - began

    def _probe(self) -> float:
        start = time.perf_counter()
        torch.mm(self._matrix, self._matrix)
        return time.perf_counter() - start
