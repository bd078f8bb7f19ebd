"""Where this process stands among those that share the work."""

from __future__ import annotations

from torch import distributed


def place() -> tuple[int, int]:
    """Rank of this process, and number of processes; ``(0, 1)`` outside ``torch.distributed``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
