"""What every file of a peer does: read what it is to do, have it done, and write what that took.

    PYTHON -m benchmarks.peers.NAME CHECKPOINT TOKENS OUTPUT SETTINGS

Runs in the interpreter of a peer, so nothing of hf_quant is imported.
"""

# Torch and safetensors are those of the peer's interpreter.

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.memory import PeakAnonymous

FACTS = "facts.json"
"""File of an output folder: seconds, and anonymous bytes at the peak, of loading, quantizing and saving."""

Quantize = Callable[[Path, torch.Tensor, Path, dict[str, Any]], None]
"""``(checkpoint folder, int64 tokens [samples, length], folder to save to, settings)``."""


def run(quantize: Quantize) -> None:
    """Do what the command line says."""
    checkpoint, tokens, output = (Path(argument) for argument in sys.argv[1:4])
    settings = json.loads(sys.argv[4])
    random.seed(0)
    torch.manual_seed(0)
    samples = load_file(tokens)["input_ids"]
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        quantize(checkpoint, samples, output, settings)
        seconds = time.perf_counter() - began
    (output / FACTS).write_text(json.dumps({"seconds": seconds, "peak": memory.bytes}), encoding="utf-8")
