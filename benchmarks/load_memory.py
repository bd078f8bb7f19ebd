"""Memory and time of quantizing a 1.1B Llama shape to INT4 while loading it, against a plain bfloat16 load.

    python -m benchmarks.load_memory                 # 22 layers, bfloat16 shards: about 2.2 GB of disk
    python -m benchmarks.load_memory --layers 4      # a quick look

Random weights at the shapes of TinyLlama-1.1B. Both loads run in fresh processes, in turn, several
rounds, and are timed until every weight is in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import hf_quant
from benchmarks.memory import PeakAnonymous, in_fresh_process


def make_checkpoint(folder: str, layers: int) -> int:
    """Write the float checkpoint; returns the elements of its largest tensor."""
    _quiet()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500MB")
    return max(parameter.numel() for parameter in model.parameters())


def load(folder: str, preset: str | None, save_to: str | None) -> tuple[int, float, int]:
    """Peak anonymous bytes, seconds, and the bytes of the saved result (0 where nothing is saved)."""
    _quiet()
    config = None if preset is None else hf_quant.HfQuantConfig(preset)
    with PeakAnonymous() as memory:
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)
        # A plain load only maps the files: time it until every weight has been read.
        for parameter in model.parameters():
            parameter.view(-1)[:: 2048 // parameter.element_size()].clone()
        seconds = time.perf_counter() - start
    if save_to is None:
        return memory.bytes, seconds, 0
    model.save_pretrained(save_to)
    return memory.bytes, seconds, sum(path.stat().st_size for path in Path(save_to).glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="int4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        largest = in_fresh_process(make_checkpoint, folder, arguments.layers)
        quantized_size, plain, quantized = 0, [], []
        for round_number in range(arguments.rounds):
            save_to = str(Path(folder, "quantized")) if round_number == 0 else None
            quantized.append(in_fresh_process(load, folder, arguments.preset, save_to))
            quantized_size = quantized_size or quantized[0][2]
            plain.append(in_fresh_process(load, folder, None, None))
    limit = quantized_size + 2 * 4 * largest
    peak = max(entry[0] for entry in quantized)
    print(
        f"{arguments.preset} file: {quantized_size / 1e6:.1f} MB; largest tensor in float32: {4 * largest / 1e6:.1f} MB"
    )
    print(
        f"peak anonymous memory: {peak / 1e6:.1f} MB, {peak / limit:.2f} of file + 2 x largest ({limit / 1e6:.1f} MB)"
    )
    print(f"plain bfloat16 load, peak anonymous memory: {max(entry[0] for entry in plain) / 1e6:.1f} MB")
    times = [statistics.median(entry[1] for entry in entries) for entries in (quantized, plain)]
    ratios = sorted(q[1] / p[1] for q, p in zip(quantized, plain, strict=True))
    print(
        f"load: {arguments.preset} {times[0]:.2f} s, bfloat16 {times[1]:.2f} s (medians of {arguments.rounds}); "
        f"ratio by round {', '.join(f'{ratio:.1f}' for ratio in ratios)}"
    )


def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
