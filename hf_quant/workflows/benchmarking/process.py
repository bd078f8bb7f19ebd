"""A model in a process of its own, so that its memory is its own: the other side of `worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import hf_quant.errors
from hf_quant.errors import EvaluationError, HfQuantError
from hf_quant.evaluation.latency import Samples
from hf_quant.evaluation.memory import PeakAnonymous, anonymous_bytes, resident_bytes
from hf_quant.workflows.benchmarking.cases import Case
from hf_quant.workflows.benchmarking.facts import Facts

_PACKAGE = Path(hf_quant.errors.__file__).parents[1]


class ModelProcess:
    """A checkpoint, loaded and timed in a new process.

    Args:
        source: Directory or repository id of the checkpoint.
        dtype: Dtype to load in: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: Name of the device to load to, such as ``"cpu"``.
        threads: Number of threads that the process computes with.

    Raises:
        HfQuantError: The checkpoint cannot be loaded, for a reason that `load_model` lists.
        EvaluationError: Another error occurred in the process, or it died.
    """

    def __init__(self, source: str, dtype: str, device: str, threads: int):
        self.source = source
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log.txt")
        path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hf_quant.workflows.benchmarking.worker", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            )
        try:
            self._reply()
            self._idle_anonymous, self._idle_resident = anonymous_bytes(self.pid), resident_bytes(self.pid)
            start = time.perf_counter()
            with PeakAnonymous(self.pid) as peak:
                self.instruments: dict[str, str] = self._ask("load", source=source, dtype=dtype, device=device)
            self.load_seconds = time.perf_counter() - start
            self.load_peak = self._above_idle(peak)
        except BaseException:
            self.close()
            raise
        self.run_peak: int | None = None
        self.resident: int | None = None

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    def give(self, inputs: dict[str, Tensor]) -> None:
        """Set the inputs for cases that have none of their own."""
        file = Path(self._folder.name, "inputs.safetensors")
        save_file({name: tensor.contiguous().cpu() for name, tensor in inputs.items()}, file)
        self._ask("give", file=str(file))

    def turn(self, case: Case, seconds: float, watch_memory: bool = False) -> dict[str, Samples]:
        """Run one turn of a case, as `LoadedModel.turn`; with `watch_memory`, note the peak of memory."""
        with PeakAnonymous(self.pid) if watch_memory else nullcontext() as peak:
            found = self._ask("turn", case=asdict(case), seconds=seconds)
        if peak is not None and (bytes_ := self._above_idle(peak)) is not None:
            self.run_peak = max(self.run_peak or 0, bytes_)
            self.resident = resident_bytes(self.pid) - self._idle_resident
        return {task: Samples(**samples) for task, samples in found.items()}

    def facts(self) -> Facts:
        """Facts about the model. Call it after a turn, as kernels may be chosen at first use."""
        return Facts(**self._ask("facts"))

    def device_peak(self) -> int | None:
        """Most bytes that tensors took on a CUDA device so far; None on other devices."""
        peak = self._ask("device_peak")
        return None if peak is None else int(peak)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self._folder.cleanup()

    def _above_idle(self, peak: PeakAnonymous) -> int | None:
        if peak.bytes is None or self._idle_anonymous is None:
            return None
        return max(0, peak.bytes - self._idle_anonymous)

    def _ask(self, request: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error
        return self._reply()

    def _reply(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._died()
        reply = json.loads(line)
        if "error" not in reply:
            return reply["result"]
        kind, message = getattr(hf_quant.errors, reply["error"], None), reply["message"]
        if isinstance(kind, type) and issubclass(kind, HfQuantError):
            raise kind(message)
        raise EvaluationError(f"{self.source} cannot be measured: {reply['error']}: {message}")

    def _died(self) -> EvaluationError:
        code = self.process.wait()
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        killed = " (killed: there may be too little memory for it)" if code == -9 else ""
        said = f": {' / '.join(last)}" if last else ""
        return EvaluationError(f"the process of {self.source} ended with code {code}{killed}{said}")
