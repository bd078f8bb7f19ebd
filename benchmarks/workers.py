"""The other side of `worker`: processes that hold a model each, of which one at a time is asked to do something."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

_ROOT = Path(__file__).parents[1]
_REST = 0.1
"""Seconds between turns, in which threads of the one before stop waiting for more work."""


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for.

    Args:
        message: Why.
        skipped: Whether nothing is wrong, but a library missing or a model not taken.
    """

    def __init__(self, message: str, skipped: bool = False):
        super().__init__(message)
        self.skipped = skipped


class Worker:
    """A model in a variant.

    Args:
        verb: ``"load"``, or ``"prepare"`` for a process that makes files and ends.
        variant: A name of `VARIANTS`.
        folder: Of the checkpoint.
        work: Folder for files that are made of it, and for logs.
        python: Interpreter.
        limit: Seconds that an answer may take.

    Raises:
        WorkerError: It could not be loaded or prepared.
    """

    def __init__(self, verb: str, variant: str, folder: Path, work: Path, python: str, limit: float):
        work.mkdir(parents=True, exist_ok=True)
        self.variant, self.limit = variant, limit
        self.file = work / f"output of {variant}.npy"
        self.log = work / f"{verb} {variant}.txt"
        threads = str(torch.get_num_threads())
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
            **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"), "1"),
            "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        }
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", verb, variant, str(folder), str(work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_ROOT,
                env=environment,
            )
        try:
            self._reply()
        except WorkerError:
            self.close()
            raise

    def ask(self, task: str, **arguments: Any) -> Any:
        """The result of one of `worker.Tasks`.

        Raises:
            WorkerError: It failed, or took too long.
        """
        time.sleep(_REST)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error
        return self._reply()

    def output(self) -> np.ndarray:
        """What the last task computed, as one row of float32."""
        self.ask("save", file=str(self.file))
        output = np.load(self.file)
        self.file.unlink()
        return output

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _reply(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
        if not ready:
            raise WorkerError(f"no answer within {self.limit:.0f} s; see {self.log}")
        line = self.process.stdout.readline()
        if not line:
            raise self._died()
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"], reply.get("skipped", False))
        return reply["result"]

    def _died(self) -> WorkerError:
        return WorkerError(f"the process ended with code {self.process.wait()}; see {self.log}")
