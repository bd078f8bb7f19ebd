"""Sums of an analysis that is not done, in a file that it goes on from."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hf_quant.errors import SaveError
from hf_quant.planner.sensitivity.base import Measure

_SECONDS = 60.0
"""Least number of seconds between two times that progress is written."""

_SHARE = 20.0
"""Least ratio of the time between two writes to the time that one takes."""


class KeptSums:
    """File with one process's progress in an analysis.

    Args:
        file: File of the progress; created when progress is first written.
        fingerprint: Fingerprint of model, data and schemes; progress with another one is ignored.
    """

    def __init__(self, file: Path, fingerprint: str):
        self.file, self.fingerprint = file, fingerprint
        self._next = time.monotonic() + _SECONDS

    def is_due(self) -> bool:
        """Whether it is time to write progress again."""
        return time.monotonic() >= self._next

    def write(self, work: Measure, done: int) -> None:
        """Write progress to the file, whole or not at all.

        Args:
            work: Measure whose sums are written.
            done: Number of parts that the sums are of.

        Raises:
            SaveError: The file cannot be written.
        """
        began = time.monotonic()
        partial = self.file.with_name(f"{self.file.name}.part")
        sums = {name: tensor.contiguous() for name, tensor in work.sums.items()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(sums, partial, metadata={"fingerprint": self.fingerprint, "done": str(done)})
            partial.replace(self.file)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"cannot keep the progress of the analysis in {self.file}: {error}") from error
        now = time.monotonic()
        self._next = now + max(_SECONDS, _SHARE * (now - began))

    def read(self, work: Measure) -> int:
        """Copy kept sums into a measure; the number of parts they are of, 0 where there are none for this analysis."""
        try:
            with safe_open(self.file, "pt") as found:
                facts = found.metadata() or {}
                if facts.get("fingerprint") != self.fingerprint or set(found.keys()) != set(work.sums):
                    return 0
                sums = {name: found.get_tensor(name) for name in work.sums}
                if any(sums[name].shape != tensor.shape for name, tensor in work.sums.items()):
                    return 0
                done = int(facts["done"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0
        for name, tensor in work.sums.items():
            tensor.copy_(sums[name])
        return done

    def remove(self) -> None:
        """Delete the file, once the analysis is done."""
        self.file.unlink(missing_ok=True)
