"""Peak anonymous memory of a piece of work, measured in a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def anonymous_bytes() -> int:
    """Anonymous resident bytes of this process (Linux): what cannot be dropped and read again from a file."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("RssAnon is only reported on Linux")


class PeakAnonymous:
    """Highest growth of anonymous memory inside the block, sampled every 2 ms in ``self.bytes``."""

    def __enter__(self) -> PeakAnonymous:
        self.start = self.peak = anonymous_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, anonymous_bytes())

    @property
    def bytes(self) -> int:
        return self.peak - self.start

    def _sample(self) -> None:
        while not self.done.is_set():
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.002)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a module-level function, run in a new interpreter so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
