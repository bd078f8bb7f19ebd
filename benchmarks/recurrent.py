"""LSTM and GRU, quantized, against float32 and torch's dynamic quantization: milliseconds of a call, all in turn.

python -m benchmarks.recurrent
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

import hf_quant
from benchmarks.timing import in_turn

KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU}
WIDTHS = (128, 256, 512, 1024)
PRESETS = ("int8", "w8a16")


class Wrapped(PreTrainedModel):
    """A model that is one recurrent layer."""

    config_class = PreTrainedConfig

    def __init__(self, rnn: nn.Module):
        super().__init__(PreTrainedConfig())
        self.rnn = rnn
        self.post_init()


def variants(kind: type[nn.Module], width: int) -> dict[str, Any]:
    """Layers of one width with the same weights, by what they are quantized to."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        return kind(width, width).eval()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        dynamic = torch.ao.quantization.quantize_dynamic(nn.ModuleList([made()]), {kind})[0]
    quantized = {preset: hf_quant.quantize(Wrapped(made()), preset, progress=False).rnn for preset in PRESETS}
    return {"float32": made(), "quantize_dynamic": dynamic, **quantized}


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="time steps of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of a turn, at least")
    options = parser.parse_args(arguments)
    titles = ("float32", "quantize_dynamic", *PRESETS)
    print(f"| layer, batch 1, {options.steps} steps | " + " | ".join(titles) + " |")
    print("|---" * (1 + len(titles)) + "|")
    for name, kind in KINDS.items():
        for width in WIDTHS:
            found = variants(kind, width)
            input = torch.randn(options.steps, 1, width)
            rows = in_turn([partial(found[title], input) for title in titles], options.rounds, options.turn)
            times = [1e3 * statistics.median(turns) for turns in zip(*rows, strict=True)]
            print(f"| {name} {width} | " + " | ".join(f"{time:.2f} ms" for time in times) + " |", flush=True)


if __name__ == "__main__":
    main()
