"""Bytes of whole files: computed from the config, and weighed where they can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.article.rows import PRESETS, Row
from benchmarks.checkpoints import checkpoint, config_of
from benchmarks.memory import in_fresh_process
from hf_quant import HfQuantConfig
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.workflows.estimate import estimate_file_bytes

FLOAT = "float32"


def computed(row: Row) -> dict[str, int]:
    """float32 and each preset to bytes."""
    config = config_of(row.shape)
    sizes = {FLOAT: estimate_file_bytes(row.model_class, config)}
    return sizes | {preset: estimate_file_bytes(row.model_class, config, preset) for preset in PRESETS}


def weighed(row: Row, cache: Path, presets: tuple[str, ...] = (FLOAT, *PRESETS)) -> dict[str, int]:
    """The same of files that are written for it, and deleted."""
    folder = checkpoint(row.shape, cache)
    sizes = {}
    for preset in presets:
        with tempfile.TemporaryDirectory(dir=cache) as target:
            in_fresh_process(write, row, folder, None if preset == FLOAT else preset, Path(target))
            sizes[preset] = directory_bytes(Path(target))
    return sizes


def write(row: Row, folder: Path, preset: str | None, target: Path) -> None:
    """Save the model of `folder` in `preset`; what stays float is float32."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = None if preset is None else HfQuantConfig(preset)
    row.model_class.from_pretrained(folder, quantization_config=config, dtype=torch.float32).save_pretrained(target)
