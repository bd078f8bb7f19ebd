"""Results kept in a file, one a line, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Kept:
    """What was measured so far, by what was asked for.

    Args:
        file: JSON lines ``{"cell": ..., "result": ...}``; made with the first result. A line that a kill has cut off is
            passed over.
    """

    def __init__(self, file: Path):
        self.file = file
        self.results: dict[str, Any] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self.results[_key(entry["cell"])] = entry["result"]

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        return _key(cell) in self.results

    def get(self, cell: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The result of `cell`, JSON-ready: what is known, or else what `measure` returns, then on the disk."""
        if cell not in self:
            self.results[_key(cell)] = result = measure()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                # First an end to what a kill may have cut off.
                stream.write("\n" + json.dumps({"cell": cell, "result": result}))
                stream.flush()
                os.fsync(stream.fileno())
        return self.results[_key(cell)]


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)
