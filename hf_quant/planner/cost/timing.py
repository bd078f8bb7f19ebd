"""Times of functions in turn, so that whatever else the machine does disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hf_quant.planner.cost.quiet import Quiet, Timed

Work = Callable[[], object]


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median and upper quartile of the times of one call, over the rounds."""

    low: float
    median: float
    high: float


def in_turn(works: Sequence[Work], rounds: int, turn: float, quiet: Quiet | None = None) -> list[list[float]]:
    """Seconds of one call of each work, ``[round][work]``: the mean over as many calls as last `turn` seconds.

    With `quiet`, turns that others slow down are taken anew, while it has patience; rounds that were slow all the same
    are left out, or the slower half where all were.
    """
    if quiet is None:
        turns = _turns(works, turn)
        return [[each() for each in turns] for _ in range(rounds)]
    timed = timed_in_turn(works, rounds, turn, quiet)
    return quiet.quietest(
        [Timed([each.seconds for each in row], max(each.probe for each in row)) for row in timed],
    )


def timed_in_turn(works: Sequence[Work], rounds: int, turn: float, quiet: Quiet) -> list[list[Timed[float]]]:
    """Seconds of one call of each work, ``[round][work]``, each with the probe that tells whether it was disturbed.

    No round is left out, as `in_turn` does with disturbed ones.
    """
    turns = _turns(works, turn)
    return [[quiet.time(each) for each in turns] for _ in range(rounds)]


def quartiles(seconds: Sequence[float]) -> Quartiles:
    """Quartiles of the times of one work; of a single time, that time three times."""
    if len(seconds) == 1:
        return Quartiles(seconds[0], seconds[0], seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Quartiles(low, median, high)


def _turns(works: Sequence[Work], turn: float) -> list[Callable[[], float]]:
    return [partial(_mean, work, _calls(work, turn)) for work in works]


def _calls(work: Work, turn: float) -> int:
    work()
    return max(1, min(round(turn / max(_mean(work, 1), 1e-7)), 100_000))


def _mean(work: Work, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count
