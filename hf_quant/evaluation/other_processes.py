"""What else the machine is busy with: the reason to doubt a measurement."""

from __future__ import annotations

import time

import psutil

DOUBTFUL = 0.2
"""Number of cores kept busy by other processes above which times should not be trusted."""


class OtherProcesses:
    """Measures how many cores other processes keep busy, from when it is made."""

    def __init__(self) -> None:
        self._start, self._machine, self._own = time.monotonic(), _machine_seconds(), _own_seconds()

    def cores(self) -> float:
        """Mean number of cores kept busy by others so far; own children that ended count as own once waited for."""
        wall = max(time.monotonic() - self._start, 1e-3)
        return max(0.0, (_machine_seconds() - self._machine - (_own_seconds() - self._own)) / wall)


def _machine_seconds() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle)


def _own_seconds() -> float:
    own = psutil.Process()
    times = own.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in own.children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.Error:
            continue
        total += spent.user + spent.system
    return float(total)
