"""Where demonstration models are kept, and how a folder there comes to exist whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def cache_directory() -> Path:
    """The folder for derived files: ``$HF_QUANT_CACHE``, or else ``~/.cache/hf_quant``; created if absent."""
    named = os.environ.get("HF_QUANT_CACHE")
    folder = Path(named).expanduser() if named else Path.home() / ".cache" / "hf_quant"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder if it does not exist, whole or not at all; its path.

    `build` gets an empty sibling folder, which is renamed to `target` when it returns, so no reader ever sees a
    half-written `target`. Callers that race each build; the first to finish wins and the others' work is dropped.

    Args:
        target: the folder wanted; its parent must exist.
        build: writes the contents into the folder it is given. If it raises, nothing is left behind.
    """
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        build(partial)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _publish(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # A directory cannot be renamed onto a non-empty one: another caller finished first.
        if not target.is_dir():
            raise
