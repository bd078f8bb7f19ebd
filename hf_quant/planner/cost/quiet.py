"""Waiting for moments in which nobody else slows the processor down."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

_SLOWER = 1.1
"""Times as long as at best that a probe may take."""

_PAUSE = 0.02
_RECENT = 1e-3
"""Seconds for which a probe holds, so that one after some work is the one before the next."""

_ATTEMPTS = 3
_ROWS, _WIDTH, _WEIGHTS = 128, 768, 16
"""Shape of a probe: rows of inputs, and weights that are more together than what most caches hold."""


T = TypeVar("T")


@dataclass(frozen=True)
class Timed(Generic[T]):
    """Seconds of some work or works, and of the slowest of the probes before and after."""

    seconds: T
    probe: float


class Quiet:
    """Times work while the processor is about as fast as it was at best.

    Of what virtual machines share with others, their own operating system sees nothing: the same linear may take 1.1 to
    1.6 times as long for seconds or minutes. Probes tell such times apart: a linear of 768 channels at 128 tokens on
    all threads of torch, which finds its weight in memory. A shorter product that fits the caches of a core hardly
    shows some of them.

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
        self._probes: Iterator[float] | None = None
        self._last = (-math.inf, math.inf)

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights of probes, which another process makes anew."""
        return {**self.__dict__, "_probes": None}

    def time(self, work: Callable[[], float]) -> Timed[float]:
        """The seconds that `work` returns, called anew while it was slow before or afterwards and there is patience.

        Of several attempts without a quiet one, the one with the fastest probes.
        """
        self.timed += 1
        attempts = []
        for _ in range(_ATTEMPTS):
            before = self._wait()
            began = time.monotonic()
            seconds = work()
            attempts.append(Timed(seconds, max(before, self._probe())))
            if self._is_fast(attempts[-1].probe):
                return attempts[-1]
            self.patience -= time.monotonic() - began
            if self.patience <= 0:
                break
        self.disturbed += 1
        return min(attempts, key=lambda attempt: attempt.probe)

    def quietest(self, timed: Sequence[Timed[T]]) -> list[T]:
        """Seconds of what was timed in quiet moments, by the best probe so far; without one, of the quieter half."""
        found = [each.seconds for each in timed if self._is_fast(each.probe)]
        if found:
            return found
        return [each.seconds for each in sorted(timed, key=lambda each: each.probe)[: (len(timed) + 1) // 2]]

    def _is_fast(self, probe: float) -> bool:
        return probe <= _SLOWER * self.best

    def _wait(self) -> float:
        when, found = self._last
        if time.monotonic() - when > _RECENT:
            found = self._probe()
        while not self._is_fast(found) and self.patience > 0:
            began = time.monotonic()
            time.sleep(_PAUSE)
            found = self._probe()
            self.patience -= time.monotonic() - began
        return found

    def _probe(self) -> float:
        if self._probes is None:
            self._probes = _linears()
        found = statistics.median(itertools.islice(self._probes, 3))
        self.best = min(self.best, found)
        self._last = (time.monotonic(), found)
        return found


def least_disturbed(found: Sequence[tuple[float, T]]) -> list[T]:
    """Of shares that were disturbed, each with what was measured, the smaller half or more, in order."""
    shares = [share for share, _ in found]
    return [each for share, each in found if share <= statistics.median_high(shares)]


def _linears() -> Iterator[float]:
    """Seconds of a linear, of a weight that was not read lately, again and again."""
    input, weights = torch.full((_ROWS, _WIDTH), 0.5), torch.full((_WEIGHTS, _WIDTH, _WIDTH), 0.5)
    for weight in itertools.cycle(weights):
        start = time.perf_counter()
        torch.nn.functional.linear(input, weight)
        yield time.perf_counter() - start
