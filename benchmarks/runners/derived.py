"""Files made from a checkpoint once, such as exports: whole or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def derive(target: Path, build: Callable[[Path], None]) -> Path:
    """The folder `target`, after `build` has filled it if it was not there."""
    if not target.is_dir():
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        build(partial)
        partial.rename(target)
    return target


def config_of(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def looked_up_weights(config: dict[str, Any]) -> int:
    """Weights of a Llama's input table that are no head's too: no token reads more than a row of them."""
    return 0 if config.get("tie_word_embeddings", True) else config["vocab_size"] * config["hidden_size"]
