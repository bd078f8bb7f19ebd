"""This package: float32 weights quantized while they are loaded, eager or compiled for decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.transformers_model import TransformersModel, load_float


class CompiledModel(TransformersModel):
    """Prompts eagerly, tokens one at a time by the compiled model with a static cache."""

    compiled: Any = None

    def new_cache(self, length: int) -> Any:
        """One cache for all generations that fit: the compiled graph is for one shape."""
        from transformers import StaticCache

        kept = getattr(self, "cache", None)
        if kept is not None and kept.get_max_length() >= length:
            kept.reset()
            return kept
        return StaticCache(config=self.model.config, max_cache_len=length)

    def step(self, ids: np.ndarray, position: int) -> np.ndarray:
        """One token."""
        import hf_quant

        if self.compiled is None:
            self.compiled = hf_quant.compile(self.model)
        return self.call(self.compiled, ids)


def load(folder: Path, work: Path, preset: str, compiled: bool = False) -> TransformersModel:
    """The model in `preset`."""
    from hf_quant import Calibration, HfQuantConfig

    # Ranges of static inputs have to come from something: as random as the weights, and of no consequence for speed.
    data = Calibration(_random_tokens(), samples=2, sequence_length=128) if preset.endswith("static") else None
    model = load_float(folder, quantization_config=HfQuantConfig(preset, calibration=data))
    return (CompiledModel if compiled else TransformersModel)(model)


def _random_tokens() -> list[list[int]]:
    return np.random.default_rng(0).integers(0, 30000, (2, 128)).tolist()
