"""Random shapes, formats, dtypes, strides, threads and instruction sets: what the exact reference computes."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import format_of
from hf_quant.formats.packing import pack
from hf_quant.formats.zero_points import pack_zero_points
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native import layout, library, structs
from hf_quant.kernels.native.linear import spec_tensor, step_spec
from hf_quant.kernels.weights import decode_rows, fake_quantize_input
from tests.kernels.native.test_ops import KERNEL, NONE, OPS, program
from tests.quantized_linear import CPU, DTYPES, arguments, reference_output

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

TOLERANCE = 2e-6
"""Relative to the sum of the magnitudes of what is added up."""
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Relative to a number that is rounded to a dtype."""
SMALLEST = {torch.float32: 0.0, torch.bfloat16: 1e-38, torch.float16: 2.0**-25}
EPSILON = 1e-3

FUNCTIONS = {
    None: lambda x: x,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
}

fuzz = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@contextmanager
def machine(isa, threads):
    """An instruction set and a number of threads, and what was before afterwards."""
    loaded, before = library.load(), torch.get_num_threads()
    loaded.hf_quant_use_isa(library.ISAS[isa])
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        loaded.hf_quant_use_isa(library.ISAS[library.isa()])


@st.composite
def machines(draw):
    isa, threads = draw(st.sampled_from(library.runnable_isas())), draw(st.sampled_from((1, 1, 2, 2, 3, 7)))
    return lambda: machine(isa, threads)


@st.composite
def schemes(draw, inputs=("float", "token", "group", "static")):
    """A scheme that native kernels run, and a width for it."""
    kind = draw(st.sampled_from(inputs))
    symmetric = draw(st.booleans())
    group = draw(st.sampled_from((32, 64, 96) if kind == "group" else (None, None, 32, 64, 96)))
    rotation = draw(st.sampled_from((None, None, None, 16, 32)))
    weight = TensorScheme(
        bits=draw(st.integers(2, 8)),
        symmetric=draw(st.booleans()),
        granularity="group" if group else draw(st.sampled_from(("channel", "tensor"))),
        group_size=group,
        rotation=rotation,
    )
    # Weights of float inputs are decoded 1024 at a time.
    widths = st.one_of(st.integers(1, 200), st.integers(1020, 1100))
    width = (group or rotation) * draw(st.sampled_from((1, 2, 3, 11, 33))) if group or rotation else draw(widths)
    input = {
        "float": None,
        "token": TensorScheme("int", 8, symmetric, "token", dynamic=True),
        "group": TensorScheme("int", 8, True, "group", group, dynamic=True),
        "static": TensorScheme("int", 8, symmetric, "tensor"),
    }[kind]
    return Scheme(weight, input), width


def linear_of(scheme, width, channels, generator, bias=True, dtype=torch.float32, scale=None):
    """Spec and operands with random codes, all of them used, and random or given scales."""
    spec = LinearSpec(scheme, width, channels)
    format = format_of(scheme.weight)
    codes = torch.randint(format.quant_min, format.quant_max + 1, (channels, width), generator=generator)
    shape = spec.scale_shape
    if scale is None:
        scale = torch.rand(shape, generator=generator) * 0.01 + 0.001
    zero = torch.randint(format.quant_min, format.quant_max + 1, shape, generator=generator).to(torch.int8)
    static = {}
    if scheme.input is not None and not scheme.input.dynamic:
        static["input_scale"] = torch.tensor([0.03125])
        if not scheme.input.symmetric:
            static["input_zero_point"] = torch.randint(-128, 128, (1,), generator=generator).to(torch.int8)
    weight = {
        "codes": pack(codes.to(torch.int8), scheme.weight.bits),
        "scale": scale.expand(shape).to(spec.scale_dtype).contiguous(),
    }
    if not scheme.weight.symmetric:
        weight["zero_point"] = pack_zero_points(zero, scheme.weight.bits)
    operands = LinearOperands(
        weight,
        torch.randn(channels, generator=generator).to(dtype) if bias else None,
        **static,
    )
    assert KERNEL.unsupported(spec, CPU) is None
    return spec, replace(operands, packed=arguments(KERNEL, operands, spec))


def on_input_of(first, second):
    """`second` on the very input that `first` has, static scale and all."""
    (_, operands), (spec, other) = first, second
    other = replace(other, input_scale=operands.input_scale, input_zero_point=operands.input_zero_point)
    return spec, replace(other, packed=arguments(KERNEL, other, spec))


def laid_out(rows, how):
    """The same numbers as `rows`, ``[tokens, width]``, lying in memory in another way."""
    tokens, width = rows.shape
    if how == "apart":
        return torch.cat([rows, torch.full((tokens, 5), torch.nan, dtype=rows.dtype)], -1)[:, :width]
    if how == "shifted":
        return torch.cat([rows.new_zeros(3), rows.reshape(-1)])[3:].view(tokens, width)
    if how == "repeated" and tokens:
        return rows[:1].expand(tokens, width)
    if how == "three" and tokens % 2 == 0:
        return rows.view(2, -1, width)
    return rows


TOKENS = st.one_of(st.integers(0, 40), st.sampled_from((270, 530)))
"""More than 264 and 516 are worked on in chunks."""
LAYOUTS = ("contiguous", "apart", "shifted", "repeated", "three")


def close(found, expected, size, dtype):
    """Whether each number is as near to what is expected as `size`, of what it is the sum of, and its dtype allow."""
    allowed = TOLERANCE * size + ROUNDING[dtype] * expected.abs() + SMALLEST[dtype]
    return found.dtype == dtype and bool(((found.double() - expected).abs() <= allowed).all())


def size_of(input, operands, spec):
    """float64 sums of magnitudes: what rounding errors are relative to."""
    codes = fake_quantize_input(input.reshape(-1, spec.in_features), operands, spec)
    weight = decode_rows(operands, spec, slice(None))
    size = codes.double().abs() @ weight.double().abs().t()
    return size if operands.bias is None else size + operands.bias.double().abs()


@fuzz
@given(
    st.data(),
    machines(),
    schemes(),
    TOKENS,
    st.integers(1, 100),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from(tuple(FUNCTIONS)),
    st.sampled_from(("none", "float32", "as input")),
)
def test_a_linear_computes_what_the_reference_computes(
    data, machine, scheme_and_width, tokens, channels, dtype, how, activation, bias
):
    scheme, width = scheme_and_width
    channels = channels if tokens < 100 else 1 + channels % 9
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    bias_dtype = dtype if bias == "as input" else torch.float32
    spec, operands = linear_of(scheme, width, channels, draw, bias != "none", bias_dtype)
    input = laid_out((torch.randn(tokens, width, generator=draw) * 3 + 0.5).to(dtype), how)
    whole = program(step_spec(operands, spec), activation=structs.ACTIVATIONS[activation])
    blocks, _, none = operands.packed
    with machine():
        found = OPS.native_linear(input, blocks, whole, none if operands.bias is None else operands.bias, channels)
    assert found.shape == (*input.shape[:-1], channels) and found.is_contiguous()
    rows = input.reshape(-1, width).float()
    expected = FUNCTIONS[activation](reference_output(rows.double(), operands, spec))
    # No activation is steeper than 1.13.
    assert close(found.view(expected.shape), expected, 1.13 * size_of(rows, operands, spec), dtype)


@fuzz
@given(st.data(), machines(), schemes(inputs=("token", "static")), st.integers(1, 20), st.integers(1, 70))
def test_sums_of_products_of_codes_are_exact(data, machine, scheme_and_width, tokens, channels):
    scheme, width = scheme_and_width
    scheme = replace(scheme, weight=replace(scheme.weight, rotation=None))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    # Scales that are powers of two, and so few products that their sums fit 24 bits: no float is ever rounded.
    width = scheme.weight.group_size * (1 + width % 2) if scheme.weight.group_size else min(width, 250)
    spec, operands = linear_of(scheme, width, channels, draw, bias=False, scale=torch.tensor(0.25))
    levels = torch.randint(-127, 128, (tokens, width), generator=draw)
    if scheme.input.dynamic and scheme.input.symmetric:
        levels[:, 0] = 127
    elif scheme.input.dynamic:
        # 255 steps from the least to the greatest, wherever zero is.
        least = data.draw(st.sampled_from((0, 5, 100, 128, 255)))
        levels = torch.randint(0, 256, (tokens, width), generator=draw) - least
        levels[:, 0], levels[:, -1] = -least, 255 - least
        if width == 1:
            return
    input = levels.float() * (0.03125 if not scheme.input.dynamic else 0.5)
    quantized = fake_quantize_input(input, operands, spec)
    if scheme.input.dynamic:
        assert torch.equal(quantized, input)
    expected = quantized.double() @ decode_rows(operands, spec, slice(None)).double().t()
    blocks, _, none = operands.packed
    with machine():
        found = OPS.native_linear(input, blocks, program(step_spec(operands, spec)), none, channels)
    assert torch.equal(found.double(), expected)


@fuzz
@given(st.data(), machines(), schemes(), st.integers(1, 90), st.sampled_from(DTYPES))
def test_rows_and_codes_of_a_packed_weight_come_back(data, machine, scheme_and_width, channels, dtype):
    scheme, width = scheme_and_width
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    spec, operands = linear_of(scheme, width, channels, draw)
    shape = data.draw(st.sampled_from([(), (0,), (7,), (3, 5)]))
    index_dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    indices = torch.randint(channels, shape, generator=draw).to(index_dtype)
    with machine():
        assert torch.equal(layout.unpack(layout.pack(operands, spec), spec), operands.weight["codes"])
        found = KERNEL.look_up(indices, operands.packed, spec, torch.empty(0, dtype=dtype))
    table = ops.dequantize(replace(operands, packed=()), spec, None)
    assert torch.equal(found, table[indices.long()].to(dtype))


def products(input, parts, activation, gated):
    """A block by one call for each product, in float32, and the sizes of its last sums."""
    calls, number = [], structs.ACTIVATIONS[activation]
    for spec, operands in parts[:-1]:
        whole = program(step_spec(operands, spec), activation=number)
        calls.append(OPS.native_linear(input, operands.packed[0], whole, operands.bias, spec.out_features))
        number = 0
    spec, operands = parts[-1]
    inner = calls[0] * calls[1] if gated else calls[0] if calls else input
    whole = program(step_spec(operands, spec), activation=number)
    last = OPS.native_linear(inner, operands.packed[0], whole, operands.bias, spec.out_features)
    return last.double(), size_of(inner, operands, spec)


def normalised(sums, size, dtype, kind, weight, shift):
    """A norm of rows, in float64, and the size of what is added up for it."""
    if not kind:
        return sums, size
    weight, shift = weight.double(), shift.double() if shift.numel() else torch.zeros(1)
    centred = sums - sums.mean(-1, keepdim=True) if kind == structs.LAYER_NORM else sums
    factor = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    # It reads numbers that were rounded to the dtype, and one that is off moves its whole row.
    read = size.amax(-1, keepdim=True) * (1 + ROUNDING[dtype] / TOLERANCE)
    return (
        centred * factor * weight + shift,
        read * factor * (1 + centred.abs() * factor) * weight.abs() + shift.abs(),
    )


@fuzz
@given(
    st.data(),
    machines(),
    schemes(),
    st.integers(1, 80),
    TOKENS,
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from(("one", "two", "gated")),
    st.sampled_from(tuple(FUNCTIONS)),
)
def test_a_block_computes_what_its_products_compute_one_by_one(
    data, machine, scheme_and_width, channels, tokens, dtype, how, kind, activation
):
    scheme, width = scheme_and_width
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    multiple = (scheme.weight.group_size or scheme.weight.rotation) or 1
    inner = multiple * data.draw(st.integers(1, 3 if multiple > 1 else 70))
    parts = [linear_of(scheme, width, inner, draw) for _ in range({"one": 0, "two": 1, "gated": 2}[kind])]
    parts = [*parts[:1], *(on_input_of(parts[0], part) for part in parts[1:])]
    parts.append(linear_of(scheme, inner if parts else width, channels, draw))
    input = laid_out(torch.randn(tokens, width, generator=draw).to(dtype), how)
    added = NONE
    if tokens and (lies := data.draw(st.sampled_from((None, "contiguous", "apart", "shifted")))):
        added = laid_out(torch.randn(tokens, channels, generator=draw).to(dtype), lies)
    norm = data.draw(st.sampled_from((0, structs.RMS_NORM, structs.LAYER_NORM)))
    weight, shift = torch.randn(2, channels, generator=draw).to(dtype)
    weight, shift = weight if norm else NONE, shift if norm == structs.LAYER_NORM else NONE
    whole = program(
        *(step_spec(operands, spec) for spec, operands in parts),
        gated=kind == "gated",
        activation=structs.ACTIVATIONS[activation],
    )
    missing = [NONE] * (3 - len(parts))
    blocks, biases = [operands.packed[0] for _, operands in parts], [operands.bias for _, operands in parts]
    tail = (added, weight, shift, norm, EPSILON, channels)
    with machine():
        found = OPS.native_block(input, *blocks, *missing, whole, *biases, *missing, *tail)
        expected, size = products(input.reshape(-1, width).float(), parts, activation, kind == "gated")
    assert found.shape == (*input.shape[:-1], channels)
    if added.numel():
        expected, size = expected + added.double(), size + added.double().abs()
    expected, size = normalised(expected, size, dtype, norm, weight, shift)
    assert close(found.view(expected.shape), expected, 1.13 * size, dtype)


@fuzz
@given(st.data(), machines(), schemes(), TOKENS, st.integers(2, 3), st.sampled_from(LAYOUTS))
def test_linears_side_by_side_compute_what_each_computes(data, machine, scheme_and_width, tokens, count, how):
    scheme, width = scheme_and_width
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    other = replace(scheme, weight=replace(scheme.weight, bits=data.draw(st.integers(2, 8))))
    channels = [data.draw(st.integers(1, 70)) for _ in range(count)]
    parts = [linear_of((scheme, other)[i % 2], width, channels[i], draw, bias=i != 1) for i in range(count)]
    parts = [parts[0], *(on_input_of(parts[0], part) for part in parts[1:])]
    whole = structs.ProgramSpec(magic=structs.MAGIC, count=1)
    whole.steps[0] = step_spec(parts[0][1], parts[0][0])
    whole.steps[0].weight_count = count
    for index, (spec, operands) in enumerate(parts):
        whole.steps[0].weights[index] = step_spec(operands, spec).weights[0]
    missing = [NONE] * (3 - count)
    biases = [NONE if operands.bias is None else operands.bias for _, operands in parts]
    input = laid_out(torch.randn(tokens, width, generator=draw), how)
    blocks, zeros = [operands.packed[0] for _, operands in parts], [0] * len(missing)
    with machine():
        found = OPS.native_linears(input, *blocks, *missing, spec_tensor(whole), *biases, *missing, *channels, *zeros)
        for output, bias, (spec, operands) in zip(found, biases, parts, strict=False):
            step = program(step_spec(operands, spec))
            alone = OPS.native_linear(input, operands.packed[0], step, bias, spec.out_features)
            assert torch.equal(output, alone)


@fuzz
@given(
    st.data(),
    machines(),
    st.integers(0, 40),
    st.integers(1, 300),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from((structs.RMS_NORM, structs.LAYER_NORM)),
)
def test_a_norm_computes_what_torch_computes(data, machine, tokens, width, dtype, how, kind):
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    input = laid_out((torch.randn(tokens, width, generator=draw) + 1).to(dtype), how)
    weight_dtype = data.draw(st.sampled_from(DTYPES))
    weight, shift = torch.randn(2, width, generator=draw).to(weight_dtype)
    shift = shift if data.draw(st.booleans()) else NONE
    with machine():
        found = OPS.native_norm(input, weight, shift, kind, EPSILON)
    expected, size = normalised(input.double(), input.double().abs() + 1, torch.float32, kind, weight, shift)
    assert found.shape == input.shape and close(found, expected, size, dtype)


@fuzz
@given(
    st.data(),
    machines(),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 40),
    st.integers(1, 220),
    st.sampled_from((16, 32, 48, 80)),
    st.sampled_from(DTYPES),
    st.sampled_from(("none", "causal", "boolean")),
)
def test_attention_computes_what_torch_computes(data, machine, heads, queries, keys, width, dtype, mask):
    batch, kv_heads, shared = heads
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    # Heads side by side as projections leave them, heads first, or a part of a longer cache.
    turned, cut = data.draw(st.booleans()), data.draw(st.integers(0, 3))

    def drawn(heads, rows):
        shape = (batch, rows + cut, heads, width) if turned else (batch, heads, rows + cut, width)
        whole = torch.randn(shape, generator=draw).to(dtype)
        return (whole.transpose(1, 2) if turned else whole)[:, :, :rows]

    query, key, value = drawn(kv_heads * shared, queries), drawn(kv_heads, keys), drawn(kv_heads, keys)
    seen = None
    if mask == "boolean":
        whole = (batch, kv_heads * shared, queries, keys)
        shape = [size if data.draw(st.booleans()) else 1 for size in whole]
        seen = torch.rand(shape, generator=draw) > 0.4
    with machine():
        found = OPS.native_attention(
            query, key, value, torch.empty((), dtype=torch.bool) if seen is None else seen, 0.2, mask == "causal"
        )
    scores = query.double() @ key.double().repeat_interleave(shared, 1).transpose(2, 3) * 0.2
    if mask == "causal":
        scores = scores.masked_fill(torch.ones(queries, keys).triu(1).bool(), -torch.inf)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1).nan_to_num()
    many = value.double().repeat_interleave(shared, 1)
    expected, size = weights @ many, weights @ many.abs()
    # Exponentials multiply the rounding errors of scores, which are sums too.
    assert close(found.transpose(1, 2), expected, 5 * size, dtype)
