"""The file beside an artefact that says what it was made of, how, and how to run it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hf_quant.errors import ExportError

MANIFEST = "hf_quant_export.json"
FORMAT_VERSION = 1


def files_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of every file below a directory but the manifest, by its path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            found[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    return found


def exported_before(directory: Path) -> list[str]:
    """What an earlier export wrote into a directory: the names of files and folders in it, which a new one replaces.

    Raises:
        ExportError: It holds something else.
    """
    if not directory.exists():
        return []
    if not directory.is_dir():
        raise ExportError(f"{directory} is a file: give a directory to export to")
    # A process that was killed leaves its staging folder.
    ours = {path.name for path in directory.glob(f".{directory.name}.????????")}
    written = {MANIFEST}
    if (directory / MANIFEST).is_file():
        try:
            values = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            written |= {Path(name).parts[0] for name in values["files"]}
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ExportError(f"{directory / MANIFEST} cannot be read ({error}): give another directory") from error
    found = {path.name for path in directory.iterdir()} - ours
    if others := sorted(found - written):
        raise ExportError(
            f"{directory} holds something else, such as {others[0]}: give a directory that is empty, or not there yet"
        )
    return sorted(found)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
