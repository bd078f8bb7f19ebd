"""The loop around greedy steps, the same for every runner."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.runners.base import Generated

_LEAST_STEPS = 4

Step = Callable[[np.ndarray, int], np.ndarray]
"""``(ids [1, n], position of the first)`` to the logits ``[vocabulary]`` of the last."""


def timed_generation(first: Step, step: Step, ids: np.ndarray, steps: int, budget: float) -> Generated:
    """The prompt `ids` by `first`, then tokens one at a time by `step`, as `Runner.generate` says."""
    start = time.perf_counter()
    logits = first(ids, 0)
    generated = Generated(time.perf_counter() - start, [], np.array(logits, dtype=np.float32))
    begin = time.perf_counter()
    for index in range(steps):
        start = time.perf_counter()
        if index >= _LEAST_STEPS and start - begin > budget:
            break
        logits = step(np.array([[int(logits.argmax())]], dtype=np.int64), ids.shape[1] + index)
        generated.steps.append(time.perf_counter() - start)
    return generated
