"""Image classifiers and speech encoders, quantized, against float32: milliseconds of a call at batch 1, all in turn.

Shapes are those of real models, weights are random. float32 is measured twice: as images come, and with channels
innermost, which torch prefers. `error` is what the outputs of a variant are from float32's, as a share of their norm.

python -m benchmarks.images_and_sounds
python -m benchmarks.images_and_sounds --models resnet-50 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import hf_quant
from benchmarks.timing import in_turn, median_ratio
from hf_quant.evaluation.float_outputs import relative_error
from hf_quant.evaluation.other_processes import OtherProcesses
from hf_quant.hardware.detect import cpu_name

IMAGE = ("pixel_values", (1, 3, 224, 224))
MODELS: dict[str, tuple[Callable[[], Any], tuple[str, tuple[int, ...]]]] = {
    "resnet-50": (lambda: ResNetForImageClassification(ResNetConfig()), IMAGE),
    "convnext-tiny": (lambda: ConvNextForImageClassification(ConvNextConfig()), IMAGE),
    "vit-base-16": (lambda: ViTForImageClassification(ViTConfig()), IMAGE),
    "whisper-base encoder, 30 s": (
        lambda: WhisperEncoder(
            WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
        ),
        ("input_features", (1, 80, 3000)),
    ),
    "wav2vec2-base, 5 s": (lambda: Wav2Vec2Model(Wav2Vec2Config()), ("input_values", (1, 80_000))),
}
PRESETS = ("int8-static", "int8", "w8a16", "w4a16")
TITLES = ("float32", "float32, channels last", *PRESETS)


def variants(name: str) -> dict[str, Callable[[], Any]]:
    """Calls of a model in float32 and in each preset."""
    made, (key, shape) = MODELS[name]
    torch.manual_seed(0)
    model = made().eval().requires_grad_(False)
    inputs = {key: torch.randn(shape)}
    calls = {"float32": partial(model, **inputs)}
    if len(shape) == 4:
        last = {key: inputs[key].to(memory_format=torch.channels_last)}
        calls["float32, channels last"] = partial(copy.deepcopy(model).to(memory_format=torch.channels_last), **last)
    for preset in PRESETS:
        data = hf_quant.Calibration([{key: inputs[key][0]}]) if preset == "int8-static" else None
        config = hf_quant.HfQuantConfig(preset, calibration=data)
        calls[preset] = partial(hf_quant.quantize(copy.deepcopy(model), config, progress=False), **inputs)
    return calls


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=0.3, help="seconds of a turn, at least")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    others = OtherProcesses()
    print(f"{cpu_name()}, {options.threads} threads, torch {torch.__version__}; milliseconds, float32 over each, error")
    print("\n| model | " + " | ".join(TITLES) + " |\n" + "|---" * (1 + len(TITLES)) + "|", flush=True)
    for name in options.models:
        calls = variants(name)
        rows = in_turn(list(calls.values()), options.rounds, options.turn)
        times = dict(zip(calls, zip(*rows, strict=True), strict=True))
        expected, cells = calls["float32"](), []
        for title in TITLES:
            if title not in calls:
                cells.append("")
                continue
            taken = f"{1e3 * statistics.median(times[title]):.1f}"
            ratio = f"{median_ratio(times['float32'], times[title]):.2f}"
            cells.append(
                f"{taken}, {ratio}, {relative_error([calls[title]()[0]], [expected[0]]):.1e}"
                if title != "float32"
                else taken
            )
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nother processes used {others.cores():.2f} cores")


if __name__ == "__main__":
    main()
