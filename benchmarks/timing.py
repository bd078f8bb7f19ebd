"""Times of functions that are compared: in turn, so that whatever else the machine does disturbs all of them alike."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

Work = Callable[[], object]


def in_turn(works: Sequence[Work], rounds: int, at_least: float) -> list[list[float]]:
    """Seconds of one call of each of `works`, per round; within a round all have their turn.

    A turn is as many calls as last `at_least` seconds, and counts as their mean. What is first is warmed up first.
    """
    counts = [_calls(work, at_least) for work in works]
    return [[_mean(work, count) for work, count in zip(works, counts, strict=True)] for _ in range(rounds)]


def best(work: Work, turns: int, at_least: float) -> float:
    """Seconds of one call in the fastest of `turns` turns: what the machine can do undisturbed."""
    return min(row[0] for row in in_turn([work], turns, at_least))


def cycle(works: Sequence[Work]) -> Work:
    """Each call is one of the next of `works`: enough of them, and none finds its data in a cache."""
    endless = itertools.cycle(works)
    return lambda: next(endless)()


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of what `over` is to `under`, round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _calls(work: Work, at_least: float) -> int:
    work()
    count = 1
    while (seconds := _mean(work, count)) * count < at_least / 2:
        count = max(2 * count, min(int(at_least / max(seconds, 1e-7)), 1 << 20))
    return max(1, round(at_least / seconds))


def _mean(work: Work, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count
