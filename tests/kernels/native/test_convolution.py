"""A native convolution: the native linear on rows of patches, whatever its geometry, format, layout and machine."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from hf_quant.kernels.native import library, structs
from hf_quant.kernels.weights import decode_rows
from tests.convolutions import Geometry, by_rows, laid_out, named_linear, packed_convolution
from tests.kernels.native.test_fuzz import FUNCTIONS, ROUNDING, fuzz, linear_of, machine, machines, schemes
from tests.naming import naming
from tests.quantized_linear import DTYPES, relative_error

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

CONVOLVE = torch.ops.hf_quant.native_convolution
NONE = torch.empty(0)
NAMES = ("int8", "int8-static", "w8a16", "w4a16", "int4", "w8a8 static asymmetric", "w2 g64 symmetric")


@st.composite
def geometries(draw):
    """A geometry, and spatial sizes that it fits on."""
    dims = draw(st.integers(1, 3))
    each = [
        (draw(st.integers(1, 4 if dims < 3 else 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        for _ in range(dims)
    ]
    padding = tuple(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in range(dims))
    least = [dilation * (kernel - 1) + 1 for kernel, _, dilation in each]
    space = tuple(size + draw(st.integers(0, {1: 600, 2: 40, 3: 6}[dims])) for size in least)
    kernel, stride, dilation = zip(*each, strict=True)
    return Geometry(kernel, stride, dilation, padding, draw(st.sampled_from((1, 1, 2, 3)))), space


@fuzz
@given(
    st.data(),
    machines(),
    schemes(),
    geometries(),
    st.integers(1, 3),
    st.integers(1, 50),
    st.sampled_from(DTYPES),
    st.sampled_from(("contiguous", "channels last")),
    st.sampled_from(structs.CONVOLUTION_ACTIVATIONS),
    st.booleans(),
)
def test_a_convolution_is_a_linear_on_patches(
    data, machine, scheme_and_width, geometry_and_space, batch, share, dtype, layout, activation, folded
):
    (scheme, _), (geometry, space) = scheme_and_width, geometry_and_space
    multiple = scheme.weight.group_size or scheme.weight.rotation or 1
    width = multiple if multiple > 1 else data.draw(st.integers(1, 70))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    channels = share * geometry.groups

    def part(width, channels, seed):
        return linear_of(scheme, width, channels, draw, dtype=dtype)

    packed = packed_convolution(part, geometry, width * geometry.groups, channels)
    input = torch.randn(batch, width * geometry.groups, *space, generator=draw).to(dtype)
    input = laid_out(input, layout)
    fold = torch.randn(2, channels, generator=draw) if folded else (NONE, NONE)
    number = structs.CONVOLUTION_ACTIVATIONS.index(activation)
    with machine():
        found = CONVOLVE(input, *packed, geometry.tensor(), *fold, number, channels)
        expected = by_rows(input.float(), geometry, *packed, channels)
    assert found.dtype == dtype
    assert found.is_contiguous() if input.is_contiguous() else found.movedim(1, -1).is_contiguous()
    if folded:
        expected = expected * fold[0].view(-1, *[1] * len(space)) + fold[1].view(-1, *[1] * len(space))
    expected = FUNCTIONS[activation](expected)
    torch.testing.assert_close(found.float(), expected, atol=1e-5 * expected.abs().max(), rtol=ROUNDING[dtype])


PLACES = [
    ("one dimension", Geometry((3,), (2,), (1,), ((1, 1),)), (700,)),
    ("points", Geometry((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))), (25, 23)),
    ("every other point", Geometry((1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), (25, 23)),
    ("squares", Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), (28, 26)),
    ("patches", Geometry((4, 4), (4, 4), (1, 1), ((0, 0), (0, 0))), (32, 48)),
    ("groups", Geometry((3, 2), (2, 1), (1, 2), ((1, 0), (2, 1)), 2), (9, 31)),
    ("cubes", Geometry((2, 3, 2), (1, 2, 1), (2, 1, 1), ((0, 1), (1, 1), (0, 2))), (5, 9, 7)),
    ("one pixel", Geometry((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))), (1, 1)),
]
every_place = pytest.mark.parametrize(
    ("geometry", "space"), [place[1:] for place in PLACES], ids=[p[0] for p in PLACES]
)


@every_place
@pytest.mark.parametrize("name", NAMES)
def test_its_bits_are_those_of_a_linear_on_patches(name, geometry, space):
    torch.manual_seed(0)
    packed = packed_convolution(named_linear(name), geometry, 128, 70)
    for dtype in DTYPES:
        input = torch.randn(3, 128, *space).to(dtype)
        expected = by_rows(input, geometry, *packed, 70)
        for layout in ("contiguous", "channels last"):
            with naming(dtype, layout):
                found = CONVOLVE(laid_out(input, layout), *packed, geometry.tensor(), NONE, NONE, 0, 70)
                assert torch.equal(found, expected)


@every_place
def test_a_batch_gives_what_its_items_give(geometry, space):
    torch.manual_seed(0)
    packed = packed_convolution(named_linear("int8"), geometry, 64, 40)
    input = torch.randn(5, 64, *space)
    together = CONVOLVE(input, *packed, geometry.tensor(), NONE, NONE, 0, 40)
    alone = [CONVOLVE(item, *packed, geometry.tensor(), NONE, NONE, 0, 40) for item in input.split(1)]
    assert torch.equal(together, torch.cat(alone))
    assert CONVOLVE(input[:0], *packed, geometry.tensor(), NONE, NONE, 0, 40).shape == (0, *together.shape[1:])


def test_it_is_the_convolution_of_torch_with_the_decoded_weight():
    torch.manual_seed(0)
    geometry = Geometry((3, 2), (2, 1), (1, 2), ((1, 1), (2, 2)), 2)
    parts = []

    def part(width, channels, seed):
        parts.append(named_linear("w4a16")(width, channels, seed))
        return parts[-1]

    packed = packed_convolution(part, geometry, 128, 48)
    weight = torch.cat([decode_rows(operands, spec, slice(None)) for spec, operands in parts])
    weight = weight.unflatten(1, (3, 2, 64)).movedim(-1, 1)
    input = torch.randn(2, 128, 11, 13)
    expected = functional.conv2d(input, weight, packed[2], (2, 1), (1, 2), (1, 2), 2)
    found = CONVOLVE(input, *packed, geometry.tensor(), NONE, NONE, 0, 48)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["int8", "int8-static", "w8a16", "int4"])
def test_a_bad_number_spoils_the_outputs_that_see_it_and_no_others(name, bad):
    torch.manual_seed(0)
    geometry = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 2)
    packed = packed_convolution(named_linear(name), geometry, 128, 20)
    for layout in ("contiguous", "channels last"):
        for isa in library.runnable_isas():
            input = laid_out(torch.randn(2, 128, 8, 9), layout)
            with machine(isa, 1), naming(layout, isa):
                before = CONVOLVE(input, *packed, geometry.tensor(), NONE, NONE, 0, 20)
                input[1, 70, 3, 4] = bad
                after = CONVOLVE(input, *packed, geometry.tensor(), NONE, NONE, 0, 20)
                sees = torch.zeros_like(before, dtype=torch.bool)
                sees[1, 10:, 2:5, 3:6] = True
                assert not after[sees].isfinite().any()
                assert torch.equal(after[~sees], before[~sees])


def arguments(**changes):
    geometry = Geometry((3, 2), (2, 1), (1, 1), ((1, 1), (0, 0)), 2)
    packed = packed_convolution(named_linear("w8a8 static asymmetric"), geometry, 16, 20)
    names = ("input", "blocks", "spec", "bias", "geometry", "factor", "shift", "activation", "channels")
    given = dict(zip(names, (torch.randn(2, 16, 9, 8), *packed, geometry.tensor(), NONE, NONE, 0, 20), strict=True))
    return [change(given[name]) if (change := changes.get(name)) else given[name] for name in names]


def with_number(place, value):
    def change(geometry):
        geometry = geometry.clone()
        geometry[place] = value
        return geometry

    return change


REFUSED = {
    "a flat input": dict(input=lambda t: t.flatten(1)),
    "four spatial dimensions": dict(input=lambda t: t[..., None, None]),
    "an input in another order": dict(input=lambda t: t.transpose(2, 3)),
    "an input apart": dict(input=lambda t: torch.stack([t, t], -1)[..., 0]),
    "an input without pixels": dict(input=lambda t: t[:, :, :0]),
    "an odd number of channels": dict(input=lambda t: t[:, :15].contiguous()),
    "fewer channels": dict(input=lambda t: t[:, :8].contiguous()),
    "a small input": dict(input=lambda t: t[..., :1].contiguous()),
    "an input of float64": dict(input=lambda t: t.double()),
    "geometry of another dtype": dict(geometry=lambda t: t.int()),
    "a short geometry": dict(geometry=lambda t: t[:-1]),
    "a long geometry": dict(geometry=lambda t: torch.cat([t, t[:5]])),
    "no groups": dict(geometry=with_number(0, 0)),
    "other groups": dict(geometry=with_number(0, 4)),
    "another kernel": dict(geometry=with_number(1, 2)),
    "a kernel of nothing": dict(geometry=with_number(1, 0)),
    "a kernel without end": dict(geometry=with_number(1, 2**62)),
    "no stride": dict(geometry=with_number(2, 0)),
    "a negative stride": dict(geometry=with_number(2, -1)),
    "a stride without end": dict(geometry=with_number(2, 2**63 - 1)),
    "no dilation": dict(geometry=with_number(3, 0)),
    "a wide dilation": dict(geometry=with_number(3, 2**29)),
    "a negative padding": dict(geometry=with_number(4, -1)),
    "a padding without end": dict(geometry=with_number(5, 2**62)),
    "a padding as large as can be": dict(geometry=lambda t: t.index_fill(0, torch.tensor([4, 5, 9, 10]), 2**30)),
    "blocks of one group": dict(blocks=lambda t: t[:1]),
    "short blocks": dict(blocks=lambda t: t[:, :-64].contiguous()),
    "blocks apart": dict(blocks=lambda t: torch.stack([t, t], 1)[:, 0]),
    "specs of one group": dict(spec=lambda t: t[:1]),
    "specs that differ": dict(spec=lambda t: torch.stack([t[0], t[1] ^ 1])),
    "a short bias": dict(bias=lambda t: t[:-1]),
    "a factor alone": dict(factor=lambda t: torch.ones(20)),
    "a short factor": dict(factor=lambda t: torch.ones(19), shift=lambda t: torch.ones(20)),
    "a shift of halves": dict(factor=lambda t: torch.ones(20), shift=lambda t: torch.ones(20).half()),
    "another activation": dict(activation=lambda n: 5),
    "other channels": dict(channels=lambda n: 40),
    "a fraction of channels": dict(channels=lambda n: 21),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_read(case):
    CONVOLVE(*arguments())
    with pytest.raises(RuntimeError, match="hf_quant: "):
        CONVOLVE(*arguments(**REFUSED[case]))


def test_sizes_of_the_output_that_are_told_have_to_be_true():
    assert CONVOLVE(*arguments(), 5, 7).shape == (2, 20, 5, 7)
    for sizes in ((5, 8), (4, 7), (-1, 7)):
        with pytest.raises(RuntimeError, match="hf_quant: "):
            CONVOLVE(*arguments(), *sizes)


def test_a_compiled_graph_has_to_be_told_the_sizes_of_the_output():
    given = arguments()
    with FakeTensorMode() as mode:
        input, *rest = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in given]
        assert CONVOLVE(input, *rest, 5, 7).shape == (2, 20, 5, 7)
        with pytest.raises(RuntimeError, match="told the sizes"):
            CONVOLVE(input, *rest)


numbers = st.one_of(
    st.sampled_from((0, 1, 2, 3, 8, 16, 2**31, 2**40, 2**62, -1, -(2**63), 2**63 - 1)), st.integers(-3, 20)
)


@fuzz
@given(
    st.lists(st.tuples(st.integers(0, 10), numbers), max_size=3),
    st.lists(st.tuples(st.integers(0, 53), st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 70)), max_size=2),
)
def test_what_was_tampered_with_is_refused_or_changes_sizes_as_it_says(geometry_changes, spec_changes):
    given = arguments()
    for place, value in geometry_changes:
        given[4] = with_number(place, value)(given[4])
    for word, value in spec_changes:
        given[2].view(torch.int32)[:, word] = value
    try:
        found = CONVOLVE(*given)
    except RuntimeError:
        return
    each = given[4][1:].view(2, 5).tolist()
    assert found.shape[2:] == tuple(
        (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        for size, (kernel, stride, dilation, before, after) in zip((9, 8), each, strict=True)
    )
