"""torchao: weights and activations in INT8, or weights alone in INT4 in groups of 128 where those divide a layer."""

# The libraries are those of the peers' interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.runners.transformers_model import TransformersModel, linears_for_conv1d, load_float


def load(folder: Path, work: Path, scheme: str) -> TransformersModel:
    """The model in `scheme`."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = load_float(folder, "float32" if scheme == "int8" else "bfloat16")
    linears_for_conv1d(model)
    if scheme == "int8":
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    else:
        _quantize_in_groups(model, quantize_)
    runner = TransformersModel(model)
    runner.bits = 8 if scheme == "int8" else 4.25
    return runner


def _quantize_in_groups(model: torch.nn.Module, quantize_: Any) -> None:
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    for size in (128, 64, 32):

        def divides(module: torch.nn.Module, name: str, size: int = size) -> bool:
            if not isinstance(module, torch.nn.Linear) or type(module.weight.data) is not torch.Tensor:
                return False
            return module.in_features % size == 0 and module.out_features % 16 == 0

        quantize_(model, PrototypeInt4WeightOnlyConfig(group_size=size), filter_fn=divides)
