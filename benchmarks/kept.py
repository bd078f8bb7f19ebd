"""Results kept in a file, one a line, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_quant.hardware.detect import cpu_name

RECORDS = Path(__file__).parent / "records"
"""Where results are committed, so that tables of many slow cells are filled over time."""


def add_record_option(parser: argparse.ArgumentParser, name: str) -> None:
    """``--json``, with `name` of the committed records for a default."""
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=RECORDS / f"{name}.jsonl",
        help="results, one a line; cells that are in it are not measured again: name another file, or delete lines, "
        "to measure anew (default: %(default)s)",
    )


def weights_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of a checkpoint's weights: results of a model that was trained anew are other results."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


class Kept:
    """What was measured so far, by what was asked for.

    Args:
        file: JSON lines ``{"cell": ..., "result": ..., "machine": ...}``; made with the first result. A line that a
            kill has cut off is passed over.
        threads: Of torch, as new results note them beside the CPU.
    """

    def __init__(self, file: Path, threads: int):
        self.file = file
        self.machine = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
        self.results: dict[str, Any] = {}
        self.machines: dict[str, str] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self._add(entry["cell"], entry["result"], entry["machine"])

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        return _key(cell) in self.results

    def get(self, cell: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The result of `cell`, JSON-ready: what is known, or else what `measure` returns, then on the disk."""
        if cell not in self:
            result = measure()
            self._add(cell, result, self.machine)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                # First an end to what a kill may have cut off.
                entry = {"cell": cell, "result": result, "machine": self.machine}
                stream.write("\n" + json.dumps(entry, separators=(",", ":")))
                stream.flush()
                os.fsync(stream.fileno())
        return self.results[_key(cell)]

    def all(self, cells: Sequence[Any], measure: Callable[[Any], Any], words: Callable[[Any, Any], str]) -> list[Any]:
        """Results of dataclass instances, in order, with a progress bar.

        Args:
            cells: Whose fields are what was asked for; shown beside the bar.
            measure: Of a cell that is not known, the result.
            words: Of a cell that was measured now, and its result, what is written beside the cell.
        """
        results = []
        with tqdm(cells, desc="Cells", disable=not sys.stderr.isatty()) as bar:
            for cell in bar:
                bar.set_postfix_str(str(cell))
                key = asdict(cell)
                is_new = key not in self
                results.append(self.get(key, partial(measure, cell)))
                if is_new:
                    bar.write(f"{cell}: {words(cell, results[-1])}", sys.stderr)
        return results

    def measured_on(self, cells: Iterable[Mapping[str, Any]]) -> str:
        """The machines that measured `cells`, for a line above a table."""
        found = (self.machines.get(_key(cell)) for cell in cells)
        return "; ".join(sorted({machine for machine in found if machine is not None}))

    def _add(self, cell: Mapping[str, Any], result: Any, machine: str) -> None:
        self.results[_key(cell)], self.machines[_key(cell)] = result, machine


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)
