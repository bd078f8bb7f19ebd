"""Convolutions with packed weights against float32 and ATen's int8: milliseconds of a call, and ratios, all in turn.

python -m benchmarks.convolutions
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch.nn import functional

from benchmarks.linears import SCHEMES, quantized
from benchmarks.timing import Work, in_turn, median_ratio
from hf_quant.config.scheme import Scheme
from hf_quant.kernels.native.linear import NativeKernel
from hf_quant.kernels.native.taps import taps_of


@dataclass(frozen=True)
class Convolution:
    """One layer: sizes of its input, and numbers that are the same in each spatial dimension."""

    name: str
    in_channels: int
    channels: int
    kernel: int
    stride: int
    padding: int
    space: tuple[int, ...]
    groups: int = 1

    @property
    def out(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in self.space)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return (self.kernel,) * len(self.space)

    @property
    def geometry(self) -> torch.Tensor:
        """What the native op is told."""
        each = (self.kernel, self.stride, 1, self.padding, self.padding)
        return torch.tensor([self.groups, *each * len(self.space)])


LAYERS = (
    Convolution("ResNet-50, 7x7/2, 3 to 64 at 224", 3, 64, 7, 2, 3, (224, 224)),
    Convolution("ResNet-50, 1x1, 256 to 64 at 56", 256, 64, 1, 1, 0, (56, 56)),
    Convolution("ResNet-50, 3x3, 64 at 56", 64, 64, 3, 1, 1, (56, 56)),
    Convolution("ResNet-50, 3x3, 128 at 28", 128, 128, 3, 1, 1, (28, 28)),
    Convolution("ResNet-50, 1x1, 512 to 2048 at 7", 512, 2048, 1, 1, 0, (7, 7)),
    Convolution("ResNet-50, 3x3, 512 at 7", 512, 512, 3, 1, 1, (7, 7)),
    Convolution("ViT-B/16, 16x16/16, 3 to 768 at 224", 3, 768, 16, 16, 0, (224, 224)),
    Convolution("Whisper base, 3, 80 to 512, 30 s", 80, 512, 3, 1, 1, (3000,)),
    Convolution("Whisper base, 3/2, 512, 30 s", 512, 512, 3, 2, 1, (3000,)),
    Convolution("wav2vec2, 3/2, 512, 1 s", 512, 512, 3, 2, 0, (3199,)),
    Convolution("wav2vec2, 3/2, 512, 5 s", 512, 512, 3, 2, 0, (15999,)),
    Convolution("ConvNeXt-tiny, depthwise 7x7, 96 at 56", 96, 96, 7, 1, 3, (56, 56), 96),
    Convolution("ConvNeXt-tiny, depthwise 7x7, 384 at 14", 384, 384, 7, 1, 3, (14, 14), 384),
    Convolution("ConvNeXt-tiny, depthwise 7x7, 768 at 7", 768, 768, 7, 1, 3, (7, 7), 768),
    Convolution("MobileNetV2, depthwise 3x3, 144 at 56", 144, 144, 3, 1, 1, (56, 56), 144),
    Convolution("MobileNetV2, depthwise 3x3/2, 96 at 112", 96, 96, 3, 2, 1, (112, 112), 96),
    Convolution("MobileNetV2, depthwise 3x3, 960 at 7", 960, 960, 3, 1, 1, (7, 7), 960),
    Convolution("ResNeXt-50 32x4d, 3x3, 128 at 56", 128, 128, 3, 1, 1, (56, 56), 32),
    Convolution("ResNeXt-50 32x4d, 3x3, 512 at 14", 512, 512, 3, 1, 1, (14, 14), 32),
    Convolution("data2vec positions, 19, 768, 5 s", 768, 768, 19, 1, 9, (249,), 16),
)

FORMATS = {"int8 static": "w8a8-static", "int8": "w8a8", "w8a16": "w8a16", "w4a16": "w4a16-g128"}
"""Title of a column to the scheme of a linear; rotated where its blocks divide the width."""


def scheme_of(title: str, width: int) -> Scheme:
    """The scheme of one column at a width."""
    scheme = SCHEMES[FORMATS[title]]
    rotation = scheme.weight.rotation
    return replace_rotation(scheme) if rotation and width % rotation else scheme


def works_of(layer: Convolution, title: str, input: torch.Tensor) -> list[Work]:
    """The native op; for weights alone also decoding them for the convolution of ATen."""
    if layer.groups > 1:
        return works_of_groups(layer, title, input)
    width = layer.in_channels * prod(layer.kernels)
    spec, operands = quantized(scheme_of(title, width), width, layer.channels)
    kernel, none = NativeKernel(), torch.empty(0)
    blocks, program, _ = kernel.arguments(kernel.lay_out(operands, spec), operands, spec)
    packed = blocks[None], program[None], torch.zeros(layer.channels), layer.geometry, none, none, 0, layer.channels
    works: list[Work] = [partial(torch.ops.hf_quant.native_convolution, input, *packed)]
    if spec.scheme.input is None:

        def decoded() -> torch.Tensor:
            weight = kernel.look_up(torch.arange(layer.channels), (blocks, program), spec, none)
            weight = weight.unflatten(1, (*layer.kernels, layer.in_channels)).movedim(-1, 1)
            return convolve(layer, input, weight)

        works.append(decoded)
    return works


def works_of_groups(layer: Convolution, title: str, input: torch.Tensor) -> list[Work]:
    """The native op for groups, or decoded rows for the convolution of ATen, twice to fill both columns."""
    width = layer.in_channels // layer.groups * prod(layer.kernels)
    spec, operands = quantized(replace_rotation(SCHEMES[FORMATS[title.replace("w4", "w8")]]), width, layer.channels)
    if spec.scheme.input is None:
        kernel, none = NativeKernel(), torch.empty(0)
        blocks, program, _ = kernel.arguments(kernel.lay_out(operands, spec), operands, spec)

        def decoded() -> torch.Tensor:
            weight = kernel.look_up(torch.arange(layer.channels), (blocks, program), spec, none)
            weight = weight.unflatten(1, (*layer.kernels, -1)).movedim(-1, 1)
            # Else it looks as if channels were innermost.
            return convolve(layer, input, weight.clone(memory_format=torch.contiguous_format))

        return [decoded, decoded]
    taps = taps_of(operands, spec, layer.kernels)
    assert taps is not None
    none = torch.empty(0)
    *tensors, is_symmetric = taps
    tensors.insert(3, torch.zeros(layer.channels))
    given = (*tensors, layer.geometry, none, none, is_symmetric, 0, layer.channels)
    return [partial(torch.ops.hf_quant.native_grouped_convolution, input, *given)]


def replace_rotation(scheme: Scheme) -> Scheme:
    """A scheme without rotation."""
    return replace(scheme, weight=replace(scheme.weight, rotation=None))


def convolve(layer: Convolution, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution in float32."""
    function = (functional.conv1d, functional.conv2d)[len(layer.space) - 1]
    return function(input, weight, torch.zeros(layer.channels), layer.stride, layer.padding, 1, layer.groups)


def aten_int8(layer: Convolution, engine: str, input: torch.Tensor) -> Work:
    """ATen's own, static inputs of 8 bits, from floats to floats; one dimension is two with a height of 1."""
    torch.backends.quantized.engine = engine
    dims = 2 - len(layer.space)
    shape = (layer.channels, layer.in_channels // layer.groups, *(1,) * dims, *layer.kernels)
    scale = torch.full((layer.channels,), 0.02, dtype=torch.float64)
    zero = torch.zeros(layer.channels, dtype=torch.int64)
    weight = torch.quantize_per_channel(torch.randn(shape), scale, zero, 0, torch.qint8)
    stride, padding = [1] * dims + [layer.stride] * (2 - dims), [0] * dims + [layer.padding] * (2 - dims)
    packed = torch.ops.quantized.conv2d_prepack(
        weight, torch.zeros(layer.channels), stride, padding, [1, 1], layer.groups
    )
    image = input.unsqueeze(2) if dims else input

    def run() -> torch.Tensor:
        codes = torch.quantize_per_tensor(image, 0.03, 128, torch.quint8)
        return torch.ops.quantized.conv2d(codes, packed, 0.1, 128).dequantize()

    return run


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true", help="layout of inputs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of a turn, at least")
    parser.add_argument("--only", default="", help="layers whose name holds this")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    engines = [engine for engine in ("fbgemm", "onednn") if engine in torch.backends.quantized.supported_engines]
    titles = [title for name in FORMATS for title in ([name, f"{name} decoded"] if "a16" in name else [name])]
    titles += [f"ATen int8 {engine}" for engine in engines]
    print(f"| float32 time over that of, batch {options.batch} | float32 | " + " | ".join(titles) + " |")
    print("|---" * (2 + len(titles)) + "|")
    for layer in LAYERS:
        if options.only not in layer.name:
            continue
        torch.manual_seed(0)
        input = torch.randn(options.batch, layer.in_channels, *layer.space)
        if options.channels_last:
            input = input.movedim(1, -1).contiguous().movedim(-1, 1)
        weight = torch.randn(layer.channels, layer.in_channels // layer.groups, *layer.kernels)
        works: list[Work] = [partial(convolve, layer, input, weight)]
        works += [work for title in FORMATS for work in works_of(layer, title, input)]
        works += [aten_int8(layer, engine, input) for engine in engines]
        columns = list(zip(*in_turn(works, options.rounds, options.turn), strict=True))
        ratios = " | ".join(f"{median_ratio(columns[0], column):.2f}" for column in columns[1:])
        print(f"| {layer.name} | {1e3 * statistics.median(columns[0]):.2f} ms | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
