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
"""Largest ratio of a probe's time to the best probe's at which the processor counts as undisturbed."""

_PAUSE = 0.02
_RECENT = 1e-3
"""Seconds for which a probe stays valid, so that the one after some work is also the one before the next."""

_ATTEMPTS = 3
_ROWS, _WIDTH, _WEIGHTS = 128, 768, 16
"""Shape of a probe: rows of inputs, and weights that are more together than what most caches hold."""


T = TypeVar("T")


@dataclass(frozen=True)
class Timed(Generic[T]):
    """Seconds of some work, and seconds of the slowest probe just before or after it."""

    seconds: T
    probe: float


class Quiet:
    """Times work while the processor is about as fast as its best so far.

    Of what virtual machines share with others, their own operating system sees nothing: the same linear may take 1.1 to
    1.6 times as long for seconds or minutes. Probes tell such times apart: a linear of 768 channels at 128 tokens on
    all threads of torch, which finds its weight in memory. A shorter product that fits the caches of a core hardly
    shows some of them.

    Args:
        patience: Most seconds to wait in total; after that everything is timed as it comes.
        best: Seconds of the fastest probe known already, such as from another process.
    """

    def __init__(self, patience: float = 60.0, best: float = math.inf):
        self.patience = patience
        self.best = best
        """Seconds of the fastest probe so far."""
        self.timed, self.disturbed = 0, 0
        """Number of timings, and how many of them were disturbed after all attempts and patience."""
        self._probes: Iterator[float] | None = None
        self._last = (-math.inf, math.inf)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling without the weights of probes, which another process makes anew."""
        return {**self.__dict__, "_probes": None}

    def time(self, work: Callable[[], float]) -> Timed[float]:
        """Seconds of work in a quiet moment; it is run again if the processor was slow before or after it.

        Where no attempt was quiet, or patience ran out, it is the attempt with the fastest probes.

        Args:
            work: Does the work once and returns the seconds that it took.
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
        """Seconds of the timings made in quiet moments; if there were none, of the quieter half."""
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
    """The measurements with the smaller shares of disturbed timings: half of them or more, in their order.

    Args:
        found: Share of disturbed timings, 0 to 1, and measurement.
    """
    shares = [share for share, _ in found]
    return [each for share, each in found if share <= statistics.median_high(shares)]


def _linears() -> Iterator[float]:
    """Seconds of a linear whose weight was not read lately, without end."""
    input, weights = torch.full((_ROWS, _WIDTH), 0.5), torch.full((_WEIGHTS, _WIDTH, _WIDTH), 0.5)
    for weight in itertools.cycle(weights):
        start = time.perf_counter()
        torch.nn.functional.linear(input, weight)
        yield time.perf_counter() - start
