"""GPTQModel: GPTQ in its own format."""

# The libraries are those of the peer's interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.job import run


def quantize(checkpoint: Path, tokens: torch.Tensor, output: Path, settings: dict[str, Any]) -> None:
    """Save what a ``QuantizeConfig(**settings)`` makes."""
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(**settings, device="cpu", offload_to_disk=False)
    model = GPTQModel.load(str(checkpoint), config, dtype=torch.float32)
    data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in tokens]
    model.quantize(data, batch_size=1)
    model.save(str(output))


if __name__ == "__main__":
    run(quantize)
