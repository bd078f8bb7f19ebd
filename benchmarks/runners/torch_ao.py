"""``torch.ao.quantization.quantize_dynamic``: INT8 weights per tensor, activations quantized on the fly."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.runners.transformers_model import TransformersModel, linears_for_conv1d, load_float


def load(folder: Path, work: Path) -> TransformersModel:
    """The model with all its linears quantized."""
    torch.backends.quantized.engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    model = load_float(folder)
    linears_for_conv1d(model)
    runner = TransformersModel(torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8))
    runner.bits = 8
    return runner
