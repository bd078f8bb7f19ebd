"""Folders of models that scripts train: made once, from where an interrupted run stopped, with a record of how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_quant.demo.cache import build_once


def train_once(output: Path, resume: Path, force: bool, write: Callable[[Path], None]) -> None:
    """Fill `output`, whole or not at all; do nothing where it exists, unless it is to be made anew.

    Args:
        output: Folder of the checkpoint.
        resume: File or folder of an unfinished run, which is removed at the end.
        force: Whether what there is is discarded.
        write: Trains, and writes into the folder that it is given.
    """
    if output.is_dir() and force:
        shutil.rmtree(output)
    elif output.is_dir():
        print(f"{output} exists; --force trains it anew")
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    build_once(output, write)
    if resume.is_dir():
        shutil.rmtree(resume)
    else:
        resume.unlink(missing_ok=True)


def write_trained(folder: Path, model: Any, tokenizer: Any, record: Mapping[str, Any]) -> None:
    """The checkpoint and ``training.json``, which is printed, too."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(record, indent=2)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    print(text)
