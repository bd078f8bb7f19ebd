"""AutoRound: SignRound in the format of GPTQ."""

# The libraries are those of the peer's interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.job import run


def quantize(checkpoint: Path, tokens: torch.Tensor, output: Path, settings: dict[str, Any]) -> None:
    """Save what ``AutoRound(**settings)`` makes."""
    from auto_round import AutoRound

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tuner = AutoRound(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        dataset=list(tokens.split(settings.get("batch_size", 8))),
        nsamples=len(tokens),
        seqlen=tokens.shape[1],
        device_map="cpu",
        **settings,
    )
    tuner.quantize_and_save(str(output), format="auto_round:auto_gptq")


if __name__ == "__main__":
    run(quantize)
