"""Datasets of files and of the Hub, by what a user types after ``--data``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from hf_quant.calibration.rows import paragraphs
from hf_quant.errors import CalibrationError, MissingDependency


def open_dataset(source: str) -> Any:
    """Texts, or mappings with a text column, of a file or a dataset of the Hub.

    Args:
        source: A ``.txt`` file (texts are separated by blank lines), a ``.jsonl`` file (a text or an object a line), a
            ``.csv`` file with a header; or a dataset's id, ``name`` or ``name:subset``, whose split ``train`` is taken,
            or the first where there is no such split.

    Raises:
        CalibrationError: The file is missing or not what its name says, or there is no such dataset.
        MissingDependency: A dataset's id was given, and the package `datasets` is not installed.
    """
    path = Path(source)
    readers = {".txt": paragraphs, ".jsonl": _json_lines, ".csv": _table}
    if path.suffix.lower() in readers:
        found: Any = readers[path.suffix.lower()](path)
        return found
    if path.exists():
        raise CalibrationError(f"cannot read {source} as data: give one of {', '.join(readers)}, or a dataset's id")
    return _hub_dataset(source)


def _json_lines(path: Path) -> list[Any]:
    items = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(json.loads(line))
        except ValueError as error:
            raise CalibrationError(f"line {number} of {path} is no JSON: {error}") from error
    return items


def _table(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(_read(path), newline=""), restval="", strict=True))
    except csv.Error as error:
        raise CalibrationError(f"{path} is no CSV: {error}") from error
    # Cells beyond the header are under the key None.
    return [{name: cell for name, cell in row.items() if name is not None} for row in rows]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"cannot read {path}: {error}") from error


def _hub_dataset(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(f"no file {source}; to take it for a dataset's id, `pip install datasets`") from error
    name, _, subset = source.partition(":")
    try:
        found = datasets.load_dataset(name, subset or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise CalibrationError(f"{source} is neither a file nor a dataset that can be loaded: {error}") from error
    return found["train"] if "train" in found else next(iter(found.values()))
