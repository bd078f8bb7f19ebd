"""How many times as fast as float32 the shapes are, by the package's own benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import hf_quant
from benchmarks.article.rows import PRESETS, Row
from benchmarks.article.sizes import write
from benchmarks.checkpoints import checkpoint, is_encoder
from benchmarks.memory import in_fresh_process
from hf_quant.demo.cache import build_once


def speeds(row: Row, cache: Path, rounds: int) -> dict[str, hf_quant.BenchmarkReport]:
    """Each preset to the benchmark of it against float32, with as many layers as the row says."""
    folder = checkpoint(row.shape, cache, row.layers)
    return {preset: _speed(row, folder, preset, rounds) for preset in PRESETS}


def _speed(row: Row, folder: Path, preset: str, rounds: int) -> hf_quant.BenchmarkReport:
    target = folder.with_name(f"{folder.name}-{preset}")
    build_once(target, partial(_quantize, row, folder, preset))
    return hf_quant.benchmark(
        folder,
        target,
        batch_sizes=(1, 8) if is_encoder(row.shape) else (1,),
        lengths=(128,),
        new_tokens=16,
        rounds=rounds,
        dtype="float32",
    )


def _quantize(row: Row, folder: Path, preset: str, target: Path) -> None:
    # In a process of its own, whose memory is given back.
    in_fresh_process(write, row, folder, preset, target)
