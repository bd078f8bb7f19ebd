"""Real quantized convolutions for tests: packed weights of each group, and the rows of patches they multiply."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from hf_quant.kernels.native.linear import NativeKernel, spec_tensor, step_spec
from hf_quant.kernels.native.structs import MAGIC, ProgramSpec
from tests.quantized_linear import arguments, make_operands, spec_for

KERNEL = NativeKernel()


@dataclass(frozen=True)
class Geometry:
    """Numbers of a convolution, one of each for every spatial dimension; `padding` are pairs."""

    kernel: tuple
    stride: tuple
    dilation: tuple
    padding: tuple
    groups: int = 1

    def tensor(self):
        """What the op takes: groups, then kernel, stride, dilation and both paddings of each dimension."""
        each = zip(self.kernel, self.stride, self.dilation, *zip(*self.padding, strict=True), strict=True)
        return torch.tensor([self.groups, *(number for numbers in each for number in numbers)])

    def patches(self, input):
        """Rows of patches ``[groups, batch, out..., kernel... x in / groups]``, channels innermost."""
        pads = [number for pair in reversed(self.padding) for number in pair]
        image = functional.pad(input, pads).unflatten(1, (self.groups, -1)).movedim(1, 0).movedim(2, -1)
        for d, (kernel, stride, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            image = image.unfold(2 + d, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        dims = len(self.kernel)
        return image.movedim(2 + dims, -1).flatten(2 + dims)


def packed_convolution(linear_of, geometry, in_channels, channels):
    """Operands of a linear for each group, its blocks and specs as the op takes them, and biases ``[channels]``.

    `linear_of(width, channels, seed)` gives a spec and operands that are packed.
    """
    width = in_channels // geometry.groups * torch.tensor(geometry.kernel).prod().item()
    parts = [linear_of(width, channels // geometry.groups, seed) for seed in range(geometry.groups)]
    blocks = torch.stack([operands.packed[0] for _, operands in parts])
    program = ProgramSpec(magic=MAGIC, count=1)
    program.steps[0] = step_spec(parts[0][1], parts[0][0])
    specs = spec_tensor(program).expand(geometry.groups, -1).contiguous()
    biases = [operands.bias for _, operands in parts]
    bias = torch.empty(0) if biases[0] is None else torch.cat(biases)
    return blocks, specs, bias


def named_linear(name, dtype=torch.float32):
    """`linear_of` of `packed_convolution` for one of the schemes of tests."""

    def linear_of(width, channels, seed):
        spec = spec_for(name, width, channels)
        operands = make_operands(spec, seed=seed, dtype=dtype)
        return spec, replace(operands, packed=arguments(KERNEL, operands, spec))

    return linear_of


def laid_out(input, layout):
    """The same numbers, "contiguous" or "channels last"."""
    return input.contiguous() if layout == "contiguous" else input.movedim(1, -1).contiguous().movedim(-1, 1)


def by_rows(input, geometry, blocks, specs, bias, channels):
    """The convolution as a native linear on rows of patches: ``[batch, channels, out...]``."""
    rows = geometry.patches(input)
    share = channels // geometry.groups
    outputs = [
        torch.ops.hf_quant.native_linear(
            rows[g].contiguous(), blocks[g], specs[g], bias[g * share : (g + 1) * share], share
        )
        for g in range(geometry.groups)
    ]
    return torch.cat(outputs, -1).movedim(-1, 1)


def grouped_operands(geometry, in_channels, channels, generator):
    """Taps int8 ``[channels, in / groups, *kernel]``, and taps, sums and scales as the op for groups takes them."""
    shape = (channels, in_channels // geometry.groups, *geometry.kernel)
    taps = torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
    words = functional.pad(taps, (0, -geometry.kernel[-1] % 4)).flatten(1).contiguous()
    scales = torch.rand(channels, generator=generator) * 0.01 + 0.001
    return taps, (words, words.sum(1, dtype=torch.int32), scales)
