"""Ctrl-C between the parts of a long work, where what was done so far can be kept."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

from tqdm.auto import tqdm


class Interrupts:
    """Context that defers a first Ctrl-C until `check` is called; a second one is raised at once.

    In other threads than the main one, and where the program has a handler of its own, nothing is changed.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._noted:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._noted = True
        tqdm.write("Stopping once this part is done; press Ctrl-C again to stop at once, without it", sys.stderr)
