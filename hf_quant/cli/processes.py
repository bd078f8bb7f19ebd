"""Commands that a launcher starts several times, to share the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


@contextmanager
def several_processes() -> Iterator[bool]:
    """Join the other processes that ``accelerate launch`` or ``torchrun`` started, if any, and leave them at the end.

    Yields:
        Whether this process is the one that writes and prints.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    from accelerate import PartialState  # late: a second of imports

    state = PartialState(cpu=not torch.accelerator.is_available())
    try:
        yield bool(state.is_main_process)
        state.wait_for_everyone()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
