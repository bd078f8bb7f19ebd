"""The native convolution in groups: torch's on the numbers that codes stand for, whatever its geometry and grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hf_quant.kernels.native import library
from tests.convolutions import Geometry, grouped_operands

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

OP = torch.ops.hf_quant.native_grouped_convolution
NONE = torch.empty(0)
FUNCTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
ACTIVATIONS = (
    lambda x: x,
    functional.relu,
    functional.gelu,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.silu,
)
STATIC = (0.02, -7.0, -128.0)


def on_grid(input, groups, grid, symmetric):
    """The numbers that codes of an input stand for, float64."""
    rows = input.float().reshape(len(input) * groups, -1)
    low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
    if grid:
        scale, zero, lowest = grid
    elif symmetric:
        scale, zero, lowest = torch.maximum(high, -low) / 127, 0.0, -127
    else:
        scale, lowest = high / 255 - low / 255, -128
        zero = (-128 - low / scale).round()
    codes = ((rows / scale).round() + zero).clamp(lowest, 127)
    return ((codes - zero) * scale).double().view(input.shape)


def expected(input, taps, scales, geometry, bias, factor, shift, activation):
    """What torch gives in float64; `input` on its grid, and taps int8 ``[out, in / groups, *kernel]``."""
    pads = [number for pair in reversed(geometry.padding) for number in pair]
    shape = (-1, *[1] * len(geometry.kernel))
    weight = taps.double() * scales.double().view(-1, *[1] * (len(geometry.kernel) + 1))
    options = (list(geometry.stride), 0, list(geometry.dilation), geometry.groups)
    bias = None if bias is None else bias.double()
    output = FUNCTIONS[len(geometry.kernel) - 1](functional.pad(input, pads), weight, bias, *options)
    if factor is not None:
        output = output * factor.double().view(shape) + shift.double().view(shape)
    return ACTIVATIONS[activation](output)


@st.composite
def convolutions(draw):
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    each = st.tuples(*[st.integers(1, 9 if dims < 3 else 4)] * dims)
    kernel = draw(each)
    padding = tuple(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in kernel)
    steps = st.tuples(*[st.sampled_from([1, 1, 2, 3])] * dims)
    stride, dilation = draw(steps), draw(st.tuples(*[st.sampled_from([1, 1, 2])] * dims))
    groups, width, share = (
        draw(st.sampled_from([2, 3, 8])),
        draw(st.sampled_from([1, 1, 2, 5])),
        draw(st.integers(1, 6)),
    )
    more = st.sampled_from([0, 1, 5, 20 if dims < 3 else 4])
    space = tuple(
        max(1, gap * (size - 1) + 1 - sum(around)) + draw(more)
        for size, gap, around in zip(kernel, dilation, padding, strict=True)
    )
    shape = (draw(st.integers(1, 3)), groups * width, *space)
    return Geometry(kernel, stride, dilation, padding, groups), shape, groups * share


@given(
    convolutions(), st.sampled_from([None, STATIC, (0.03, 0.0, -127.0)]), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 4), st.integers(0, 2**31),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_it_is_the_convolution_of_torch_on_the_numbers_of_codes(
    case, grid, symmetric, biased, affine, activation, seed
):
    geometry, shape, channels = case
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(shape, generator=generator) + 0.3
    taps, operands = grouped_operands(geometry, shape[1], channels, generator)
    bias = torch.randn(channels, generator=generator) if biased else None
    factor, shift = torch.randn(2, channels, generator=generator) if affine else (None, None)
    found = OP(
        input, *operands, NONE if bias is None else bias, torch.tensor(grid) if grid else NONE, geometry.tensor(),
        *((factor, shift) if affine else (NONE, NONE)), symmetric, activation, channels,
    )  # fmt: skip
    right = expected(
        on_grid(input, geometry.groups, grid, symmetric), taps, operands[2], geometry, bias, factor, shift, activation
    )
    assert found.shape == right.shape and found.is_contiguous()
    # A number halfway between two codes may get either.
    step = 0.05 * float(operands[2].max()) * 127 * (1 if factor is None else float(factor.abs().max()))
    error = (found - right).abs()
    assert float(error.max()) <= 1e-4 * float(right.abs().max()) + step and float(error.median()) <= 1e-5 * (1 + step)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 6)
    _, operands = grouped_operands(geometry, 6, 6, generator)
    input = torch.randn(2, 6, 9, 9, generator=generator).to(dtype)
    arguments = (*operands, NONE, torch.tensor(STATIC), geometry.tensor(), NONE, NONE, False, 0, 6)
    found = OP(input, *arguments)
    assert found.dtype == dtype
    assert torch.equal(found, OP(input.float(), *arguments).to(dtype))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("grid", [None, STATIC])
def test_what_is_not_finite_spoils_its_item_and_group_and_no_other(grid, bad):
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 4)
    _, operands = grouped_operands(geometry, 8, 8, generator)
    input = torch.randn(2, 8, 7, 9, generator=generator)
    arguments = (*operands, NONE, torch.tensor(grid) if grid else NONE, geometry.tensor(), NONE, NONE, False, 0, 8)
    clean = OP(input, *arguments)
    input[1, 5, 6, 8] = bad  # group 2
    found = OP(input, *arguments)
    assert found[1, 4:6].isnan().all()
    found[1, 4:6] = clean[1, 4:6]
    assert torch.equal(found, clean)


def test_an_item_gives_the_same_alone_and_among_others():
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry((5, 5), (2, 2), (1, 1), ((2, 2), (2, 2)), 16)
    _, operands = grouped_operands(geometry, 16, 32, generator)
    input = torch.randn(5, 16, 30, 31, generator=generator) * torch.arange(1.0, 6.0).view(-1, 1, 1, 1)
    arguments = (*operands, NONE, NONE, geometry.tensor(), NONE, NONE, False, 0, 32)
    together = OP(input, *arguments)
    for item in range(5):
        assert torch.equal(OP(input[item : item + 1], *arguments)[0], together[item])


def test_large_planes_in_bands_give_what_torch_gives():
    generator = torch.Generator().manual_seed(0)
    for geometry in (
        Geometry((7, 7), (1, 1), (1, 1), ((3, 3), (3, 3)), 2),
        Geometry((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), 2),
        Geometry((128,), (1,), (1,), ((64, 63),), 2),
    ):
        taps, operands = grouped_operands(geometry, 4, 6, generator)
        input = torch.randn(1, 4, *(300, 260)[: len(geometry.kernel)], generator=generator)
        found = OP(input, *operands, NONE, torch.tensor(STATIC), geometry.tensor(), NONE, NONE, False, 0, 6)
        right = expected(on_grid(input, 2, STATIC, False), taps, operands[2], geometry, None, None, None, 0)
        assert float((found - right).norm() / right.norm()) < 1e-4


def test_an_empty_batch_gives_an_empty_output():
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 4)
    _, operands = grouped_operands(geometry, 4, 4, torch.Generator().manual_seed(0))
    arguments = (*operands, NONE, NONE, geometry.tensor(), NONE, NONE, False, 0, 4)
    assert OP(torch.empty(0, 4, 5, 6), *arguments).shape == (0, 4, 5, 6)


def changed(index, value):
    return lambda arguments: [*arguments[:index], value(arguments[index]), *arguments[index + 1 :]]


REFUSED = {
    "channels last": changed(0, lambda t: t.to(memory_format=torch.channels_last)),
    "taps of other filters": changed(1, lambda t: t[:-1]),
    "taps that are not padded": changed(1, lambda t: t[:, :-1].contiguous()),
    "taps of another dtype": changed(1, lambda t: t.to(torch.uint8)),
    "sums of another dtype": changed(2, lambda t: t.long()),
    "too few scales": changed(3, lambda t: t[:-1]),
    "a zero point beyond 8 bits": changed(5, lambda t: torch.tensor([0.1, 128.0, -128.0])),
    "a zero point that is NaN": changed(5, lambda t: torch.tensor([0.1, torch.nan, -128.0])),
    "another lowest code": changed(5, lambda t: torch.tensor([0.1, 0.0, -100.0])),
    "two numbers of a grid": changed(5, lambda t: torch.zeros(2)),
    "groups that do not divide": changed(6, lambda t: torch.tensor([3, *t[1:].tolist()])),
    "an activation that there is not": changed(10, lambda t: 5),
    "a factor alone": changed(7, lambda t: torch.ones(8)),
    "other channels": changed(11, lambda t: 7),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_arguments_that_do_not_fit_are_refused(change):
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 4)
    _, operands = grouped_operands(geometry, 4, 8, torch.Generator().manual_seed(0))
    arguments = [torch.randn(2, 4, 5, 6), *operands, NONE, NONE, geometry.tensor(), NONE, NONE, False, 0, 8]
    assert OP(*arguments).shape == (2, 8, 5, 6)
    with pytest.raises(RuntimeError, match="hf_quant"):
        OP(*change(arguments))
