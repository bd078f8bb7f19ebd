"""Clocks: of the processor for work on CPUs, and events of the device itself where work is queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """A clock that times single calls.

    Args:
        name: Name of the clock, for reports.
        seconds: Function that calls its argument once and returns the seconds it took, queued work included.
    """

    name: str
    seconds: Callable[[Work], float]


def clock_for(device: torch.device) -> Clock:
    """The clock for work on a device.

    CUDA and MPS are timed by a pair of events on their queue; any other accelerator by the processor's clock, waiting
    for the device before and after.
    """
    if device.type == "cpu":
        return Clock("perf_counter", _processor)
    if device.type == "cuda":
        return Clock("cuda events", lambda work: _events(work, torch.cuda.Event, torch.cuda.synchronize))
    if device.type == "mps":
        return Clock("mps events", lambda work: _events(work, torch.mps.Event, torch.mps.synchronize))
    return Clock("perf_counter, device synchronized", _synchronized)


def _processor(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _events(work: Work, event: Callable[..., Any], synchronize: Callable[[], None]) -> float:
    start, end = event(enable_timing=True), event(enable_timing=True)
    synchronize()
    start.record()
    work()
    end.record()
    synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _synchronized(work: Work) -> float:
    torch.accelerator.synchronize()
    start = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start
