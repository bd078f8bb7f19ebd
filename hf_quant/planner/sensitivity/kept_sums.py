"""Sums of an analysis that is not done, in a file that it goes on from."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hf_quant.errors import SaveError
from hf_quant.planner.sensitivity.base import Measure

_SECONDS = 60.0
"""At least so long between two times that progress is written."""

_SHARE = 20.0
"""And at least so many times as long as writing it took."""


class KeptSums:
    """Progress of one process.

    Args:
        file: Made with the first progress that is written.
        fingerprint: Of what is analysed: sums of anything else are passed over.
    """

    def __init__(self, file: Path, fingerprint: str):
        self.file, self.fingerprint = file, fingerprint
        self._next = time.monotonic() + _SECONDS

    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() >= self._next

    def write(self, work: Measure, done: int) -> None:
        """Write whole or not at all.

        Raises:
            SaveError: It cannot be written.
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
        """Give `work` the sums there are, and say how many parts they are of; 0 where there are none of the same."""
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
        """The analysis is done."""
        self.file.unlink(missing_ok=True)
