"""Rounds in which every worker has its turn, one at a time, and the machine's memory with them."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from benchmarks.limits import read_rate
from benchmarks.variants import VARIANTS
from benchmarks.workers import Worker, WorkerError

Task = dict[str, Any]
"""What a worker is asked for: see `worker.Tasks`."""

ENCODER_TASKS: tuple[Task, ...] = (
    {"task": "encode", "batch": 1, "length": 128},
    {"task": "encode", "batch": 8, "length": 128},
)
DECODER_TASKS: tuple[Task, ...] = (
    {"task": "generate", "length": 128, "steps": 32},
    {"task": "generate", "length": 512, "steps": 0},
)


@dataclass
class Rounds:
    """What rounds have shown.

    Args:
        times: Variant to measure to medians of its turns, one a round; without variants that failed.
        rates: Bytes per second that the machine read in each round.
    """

    times: dict[str, dict[str, list[float]]]
    rates: list[float] = field(default_factory=list)

    @property
    def bandwidth(self) -> float:
        """Of a median round."""
        return statistics.median(self.rates)


def measure_together(workers: list[Worker], title: str, tasks: tuple[Task, ...], count: int, budget: float) -> Rounds:
    """`count` rounds of `tasks`, in turns of about `budget` seconds; whatever fails is left out, and said so."""
    rounds = Rounds({worker.variant: {} for worker in workers})
    # The round before the first warms up: caches, and the compiler.
    for number in tqdm(range(count + 1), desc=title, unit="round", leave=False):
        for worker in [worker for worker in workers if worker.variant in rounds.times]:
            try:
                medians = _turn(worker, tasks, budget if number else 0.0)
            except WorkerError as error:
                say(f"{title}: {worker.variant} FAILED: {error}")
                del rounds.times[worker.variant]
                continue
            if number:
                for measure, seconds in medians.items():
                    rounds.times[worker.variant].setdefault(measure, []).append(seconds)
        if number:
            rounds.rates.append(read_rate())
    return rounds


def say(text: str) -> None:
    """A line for people, past the progress bar."""
    tqdm.write(text, file=sys.stderr)


def _turn(worker: Worker, tasks: tuple[Task, ...], budget: float) -> dict[str, float]:
    only = VARIANTS[worker.variant].decodes_only
    medians = {}
    for task in tasks:
        if only and not task["steps"]:
            continue
        for measure, seconds in worker.ask(**task, budget=budget).items():
            if not only or measure.startswith("decode"):
                medians[measure] = statistics.median(seconds)
    return medians
