"""Memory of processes, and of the tensors of a model."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import torch
from torch import nn

from hf_quant.modules.base import QuantizedModule

_INTERVAL = 0.002
"""Seconds between two samples of memory."""


def anonymous_bytes(process: int | None = None) -> int | None:
    """Anonymous resident bytes of a process: memory that no file backs. None where the system does not report it.

    Args:
        process: Id of the process; None for this one.
    """
    try:
        status = Path(f"/proc/{process or os.getpid()}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    entry = next((line for line in status.splitlines() if line.startswith("RssAnon:")), None)
    return None if entry is None else int(entry.split()[1]) * 1024


def resident_bytes(process: int | None = None) -> int:
    """Resident bytes of a process, pages of mapped files included."""
    return int(psutil.Process(process).memory_info().rss)


class PeakAnonymous:
    """Context that samples the anonymous memory of a process every 2 ms; ``self.bytes`` is the highest, in bytes.

    Watching another process than the own one does not disturb it.

    Args:
        process: Id of the process; None for this one.
    """

    def __init__(self, process: int | None = None):
        self.process = process
        self.bytes = anonymous_bytes(process)
        self._done = threading.Event()

    def __enter__(self) -> PeakAnonymous:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._sample()

    def _sample(self) -> None:
        now = anonymous_bytes(self.process)
        if now is not None:
            self.bytes = max(self.bytes or 0, now)


def weight_bytes(model: nn.Module, buffers: bool = True) -> int:
    """Bytes of memory that parameters, buffers and kernels' layouts of a model take, shared ones once.

    Tensors on the meta device take none. A mapped file counts as memory: running the model reads it.

    Args:
        model: Quantized or not.
        buffers: Count buffers, too. What belongs to a quantized weight counts either way.
    """
    storages: dict[tuple[str, int], int] = {}
    for module in model.modules():
        packed = getattr(module, "packed", None)
        own = [*module.parameters(recurse=False), *(module.buffers(recurse=False) if buffers else ())]
        own += [tensor for tensor in packed if isinstance(tensor, torch.Tensor)] if isinstance(packed, tuple) else []
        if isinstance(module, QuantizedModule):
            own += [tensor for weight in module.weights.values() for tensor in weight.tensors.values()]
        for tensor in own:
            if not tensor.is_meta:
                storage = tensor.untyped_storage()
                storages[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def reset_device_peak(device: torch.device) -> None:
    """Reset the peak that `device_peak` reports; does nothing on devices other than CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_peak(device: torch.device) -> int | None:
    """Most bytes that tensors took on a CUDA device since `reset_device_peak`; None on other devices."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
