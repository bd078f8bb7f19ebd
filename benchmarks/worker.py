"""One model in one variant, in a process of its own that does as it is told.

    python -m benchmarks.worker (load | prepare) VARIANT FOLDER WORK

Requests are lines of JSON on standard input, replies lines of JSON on what was standard output; whatever libraries
print goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.base import Runner, Skip
from benchmarks.variants import VARIANTS

_VOCABULARY = 30000
"""Tokens that every model knows."""


def token_ids(batch: int, length: int) -> np.ndarray:
    """The same text for everything that is compared, int64 ``[batch, length]``."""
    return np.random.default_rng(0).integers(5, _VOCABULARY, size=(batch, length), dtype=np.int64)


class Tasks:
    """What a worker is asked for, by name; every method returns what is JSON-ready."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self.output = np.empty(0)

    def encode(self, batch: int, length: int, budget: float) -> dict[str, list[float]]:
        """Seconds of each of as many forwards as fit into `budget` seconds."""
        ids = token_ids(batch, length)
        seconds: list[float] = []
        start = time.perf_counter()
        while not seconds or time.perf_counter() - start < budget:
            took, self.output = self.runner.encode(ids)
            seconds.append(took)
        return {f"encode {batch} x {length}": seconds}

    def generate(self, length: int, steps: int, budget: float) -> dict[str, list[float]]:
        """Seconds of each prompt and of each step, of as many generations as begin within `budget` seconds."""
        ids = token_ids(1, length)
        prefills: list[float] = []
        decoded: list[float] = []
        start = time.perf_counter()
        while not prefills or time.perf_counter() - start < budget:
            generated = self.runner.generate(ids, steps, budget)
            prefills.append(generated.prefill)
            decoded += generated.steps
            self.output = generated.logits
        return {f"prefill {length}": prefills, **({f"decode after {length}": decoded} if steps else {})}

    def save(self, file: str) -> None:
        """Write what the last task computed."""
        np.save(file, self.output.astype(np.float32).reshape(-1))

    def weights(self) -> dict[str, float | None]:
        """Bytes that a token reads, or bits per weight."""
        return {"bytes": self.runner.read_bytes(), "bits": self.runner.bits}


def serve(runner: Runner, reply: Any) -> None:
    """Answer requests until there are no more."""
    tasks = Tasks(runner)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(result=getattr(tasks, request.pop("task"))(**request))
        except Exception as error:  # the parent decides what becomes of it
            traceback.print_exc()
            reply(error=f"{type(error).__name__}: {error}"[:500])


def main() -> None:
    verb, variant, folder, work = sys.argv[1], VARIANTS[sys.argv[2]], Path(sys.argv[3]), Path(sys.argv[4])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    try:
        if verb == "prepare":
            variant.prepare(folder, work)
            return reply(result=None)
        runner = variant.load(folder, work)
    except Exception as error:  # as above
        traceback.print_exc()
        return reply(error=f"{type(error).__name__}: {error}"[:500], skipped=isinstance(error, Skip | ImportError))
    gc.collect()
    if sys.platform == "linux":
        # Quantizing leaves much memory that is freed, but not given back.
        ctypes.CDLL(None).malloc_trim(0)
    reply(result=None)
    serve(runner, reply)


if __name__ == "__main__":
    main()
