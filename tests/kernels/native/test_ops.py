"""The native ops as torch sees them: contract, fake implementation, and what they refuse."""

import pytest
import torch
from torch.nn import functional

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native import library, structs
from hf_quant.kernels.native.linear import NativeKernel, spec_tensor, step_spec
from tests.convolutions import Geometry, grouped_operands, laid_out, named_linear, packed_convolution
from tests.naming import naming
from tests.quantized_linear import (
    CPU,
    DTYPES,
    arguments,
    make_input,
    make_operands,
    reference_output,
    relative_error,
    spec_for,
)

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

OPS = torch.ops.hf_quant
KERNEL = NativeKernel()
NONE = torch.empty(0)
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def packed(name, inputs=64, outputs=48, seed=0, bias=True, dtype=torch.float32):
    """Spec, operands, blocks, and a bias or what stands for none."""
    spec = spec_for(name, inputs, outputs)
    operands = make_operands(spec, seed=seed, bias=bias, dtype=dtype)
    blocks, _, none = arguments(KERNEL, operands, spec)
    return spec, operands, blocks, operands.bias if bias else none


def program(*steps, gated=False, activation=0):
    """The spec tensor of one step or two; `gated` puts the first two weights side by side."""
    found = structs.ProgramSpec(magic=structs.MAGIC, count=1)
    found.steps[0] = steps[0]
    found.steps[0].activation = activation
    if gated:
        found.steps[0].gated, found.steps[0].weight_count = 1, 2
        found.steps[0].weights[1] = steps[1].weights[0]
    if len(steps) > (2 if gated else 1):
        found.count = 2
        found.steps[1] = steps[-1]
    return spec_tensor(found)


def linear_arguments(name, dtype=torch.float32):
    spec, operands, blocks, bias = packed(name, dtype=dtype)
    return make_input(spec, 6, dtype).view(2, 3, -1), blocks, program(step_spec(operands, spec)), bias, 48


def linears_arguments(name, count=3):
    parts = [packed(name, outputs=outputs, seed=seed) for seed, outputs in enumerate((48, 33, 16)[:count])]
    steps = [step_spec(operands, spec) for spec, operands, *_ in parts]
    whole = structs.ProgramSpec(magic=structs.MAGIC, count=1)
    whole.steps[0] = steps[0]
    whole.steps[0].weight_count = count
    for index, step in enumerate(steps):
        whole.steps[0].weights[index] = step.weights[0]
    missing = [NONE] * (3 - count)
    blocks, biases = ([part[index] for part in parts] + missing for index in (2, 3))
    channels = [part[0].out_features for part in parts] + [0] * (3 - count)
    return (make_input(parts[0][0], 5), *blocks, spec_tensor(whole), *biases, *channels), parts


def block_arguments(name, gated=True, residual=True, norm=structs.LAYER_NORM, activation="silu"):
    gate, up = packed(name, outputs=128), packed(name, outputs=128, seed=1)
    down = packed(name, inputs=128, outputs=64, seed=2)
    parts = (gate, up, down) if gated else (gate, down)
    spec = program(*(step_spec(p[1], p[0]) for p in parts), gated=gated, activation=structs.ACTIVATIONS[activation])
    missing = [] if gated else [NONE]
    blocks, biases = ([part[index] for part in parts] + missing for index in (2, 3))
    draw = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(64, generator=draw), torch.randn(64, generator=draw)
    added = torch.randn(7, 64, generator=draw) if residual else NONE
    shift = bias if norm == structs.LAYER_NORM else NONE
    tail = (added, weight if norm else NONE, shift, norm, 1e-5, 64)
    return (make_input(gate[0], 7), *blocks, spec, *biases, *tail), parts


def experts_arguments(name, gated=True, counts=(3, 0, 4), beyond=2):
    made = [block_arguments(name, gated, residual=False, norm=0)[0] for _ in counts]
    blocks, biases = (
        [torch.stack([each[place] for each in made]) for place in places] for places in ((1, 2, 3), (5, 6, 7))
    )
    blocks, biases = ([t if t.numel() else NONE for t in found] for found in (blocks, biases))
    offsets = torch.tensor([0, *counts]).cumsum(0)
    rows = torch.randn(sum(counts) + beyond, made[0][0].shape[-1])
    return rows, *blocks, torch.stack([each[4] for each in made]), *biases, offsets, 64


def recurrent_arguments(name, gru=False, projects=False, reverse=False, sizes=(3, 3, 1)):
    """Rows of gates, states, and weights of a layer of 128 cells, of an LSTM perhaps projected to 64."""
    gates, out = 128 * (3 if gru else 4), 64 if projects else 128
    hidden = packed(name, inputs=out, outputs=gates)
    projection = packed(name, inputs=128, outputs=64, seed=1, bias=False)
    weights = [
        (blocks, program(step_spec(operands, spec)), bias) for spec, operands, blocks, bias in (hidden, projection)
    ]
    states = torch.randn(sizes[0], out), NONE if gru else torch.randn(sizes[0], 128)
    given = torch.randn(sum(sizes), gates), *states, torch.tensor(sizes)
    return *given, *weights[0], *(weights[1] if projects else [NONE] * 3), gru, reverse


def convolution_arguments(name, groups=1, last=False):
    geometry = Geometry((3, 2), (2, 1), (1, 1), ((1, 0), (0, 1)), groups)
    blocks, specs, bias = packed_convolution(named_linear(name), geometry, 64, 40)
    input = laid_out(torch.randn(2, 64, 9, 7), "channels last" if last else "contiguous")
    return input, blocks, specs, bias, geometry.tensor(), *torch.randn(2, 40), 1, 40, 4, 7


def grouped_arguments(dims=2, static=False):
    geometry = Geometry((3, 2)[:dims], (2, 1)[:dims], (1, 1)[:dims], ((1, 0), (0, 1))[:dims], 8)
    _, operands = grouped_operands(geometry, 16, 24, torch.Generator().manual_seed(0))
    grid = torch.tensor([0.02, 3.0, -128.0]) if static else NONE
    sizes = (4, 7)[:dims]
    affine = torch.randn(2, 24)
    input = torch.randn(2, 16, *(9, 7)[:dims])
    return input, *operands, torch.randn(24), grid, geometry.tensor(), *affine, False, 1, 24, *sizes


def attention_arguments(mask):
    # Heads side by side, turned.
    query, key, value = (torch.randn(2, *shape, 32).transpose(1, 2) for shape in ((5, 4), (9, 2), (9, 2)))
    return query, key, value, mask, 0.2, False


ARGUMENTS = {
    "native_linear": lambda: linear_arguments("int8"),
    "native_linear groups": lambda: linear_arguments("int4", torch.bfloat16),
    "native_linear static": lambda: linear_arguments("w8a8 static asymmetric"),
    "native_linears": lambda: linears_arguments("int8")[0],
    "native_linears two": lambda: linears_arguments("int4", 2)[0],
    "native_block": lambda: block_arguments("int8")[0],
    "native_block chain": lambda: block_arguments("w4a16", gated=False, residual=False, norm=0)[0],
    "native_experts": lambda: experts_arguments("int8"),
    "native_experts chain": lambda: experts_arguments("w4a16", gated=False),
    "native_recurrent": lambda: recurrent_arguments("int8", projects=True),
    "native_recurrent gru": lambda: recurrent_arguments("w8a16", gru=True, reverse=True),
    "native_recurrent static": lambda: recurrent_arguments("w8a8 static asymmetric", sizes=(2, 2)),
    "native_convolution": lambda: convolution_arguments("int8"),
    "native_convolution groups": lambda: convolution_arguments("int4", groups=2, last=True),
    "native_convolution static": lambda: convolution_arguments("w8a8 static asymmetric"),
    "native_grouped_convolution": grouped_arguments,
    "native_grouped_convolution static": lambda: grouped_arguments(1, static=True),
    "native_embedding": lambda: (
        torch.tensor([[0, 47], [3, 3]]),
        *linear_arguments("w8a16")[1:3],
        torch.empty(0),
        64,
    ),
    "native_norm": lambda: (torch.randn(3, 40), torch.randn(40), NONE, structs.RMS_NORM, 1e-6),
    "native_norm shifted": lambda: (*torch.randn(3, 7).half(), structs.LAYER_NORM, 1e-6),
    "native_attention": lambda: attention_arguments(torch.empty((), dtype=torch.bool)),
    "native_attention masked": lambda: attention_arguments(torch.rand(2, 1, 5, 9) > 0.3),
}
"""Op, and what is special about the arguments, to what makes them."""


def op_of(name):
    return getattr(OPS, name.split()[0])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_op_keeps_its_contract(name):
    torch.manual_seed(0)
    results = torch.library.opcheck(op_of(name).default, ARGUMENTS[name]())
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["int8", "int4", "w4a16", "w8a8 static"])
def test_linears_side_by_side_compute_what_each_computes_alone(name, count):
    arguments, parts = linears_arguments(name, count)
    outputs = OPS.native_linears(*arguments)
    for output, (spec, operands, blocks, bias) in zip(outputs, parts, strict=False):
        alone = OPS.native_linear(arguments[0], blocks, program(step_spec(operands, spec)), bias, spec.out_features)
        assert torch.equal(output, alone)
    assert count == 3 or outputs[2].shape == (5, 0)


@pytest.mark.parametrize("norm", [0, structs.RMS_NORM, structs.LAYER_NORM])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["int8", "int4", "w4a16"])
def test_a_block_computes_what_its_parts_compute(name, gated, residual, norm):
    arguments, parts = block_arguments(name, gated, residual, norm)
    first = functional.silu(reference_output(arguments[0], parts[0][1], parts[0][0]))
    if gated:
        first = first * reference_output(arguments[0], parts[1][1], parts[1][0])
    expected = reference_output(first, parts[-1][1], parts[-1][0])
    added, weight, bias = arguments[8:11]
    if residual:
        expected = expected + added
    if norm == structs.RMS_NORM:
        expected = functional.rms_norm(expected, (64,), weight, 1e-5)
    elif norm == structs.LAYER_NORM:
        expected = functional.layer_norm(expected, (64,), weight, bias, 1e-5)
    # A number between two codes may be rounded to either.
    assert relative_error(OPS.native_block(*arguments), expected) < 5e-3


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["int8", "int4", "w4a16"])
def test_experts_compute_what_a_block_computes_on_the_rows_of_each(name, gated):
    torch.manual_seed(0)
    arguments = experts_arguments(name, gated)
    rows, *weights, offsets, channels = arguments
    found = OPS.native_experts(*arguments)
    assert found.shape == (9, 64) and not found[7:].any()
    for expert in range(3):
        begin, end = offsets[expert : expert + 2].tolist()
        own = [tensor[expert] if tensor.numel() else tensor for tensor in weights]
        alone = OPS.native_block(rows[begin:end], *own, NONE, NONE, NONE, 0, 0.0, channels)
        assert torch.equal(found[begin:end], alone)


@pytest.mark.parametrize("offsets", [[0, 4, 3, 7], [0, 3, 3, 10], [1, 3, 3, 7], [-1, 3, 3, 7], [0, 3, 3], [0], []])
def test_offsets_of_experts_that_do_not_ascend_within_the_rows_are_refused(offsets):
    arguments = list(experts_arguments("int8"))
    arguments[8] = torch.tensor(offsets, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="hf_quant"):
        OPS.native_experts(*arguments)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
        ("silu", functional.silu),
        ("relu", functional.relu),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_are_those_of_torch(activation, function, dtype):
    spec, operands, blocks, bias = packed("w8a16", dtype=dtype)
    input = make_input(spec, 64, dtype)
    plain = OPS.native_linear(input, blocks, program(step_spec(operands, spec)), bias, 48)
    number = structs.ACTIVATIONS[activation]
    fused = OPS.native_linear(input, blocks, program(step_spec(operands, spec), activation=number), bias, 48)
    assert relative_error(fused, function(plain.float())) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [7, 40, 576])
def test_norms_are_those_of_torch(width, dtype):
    torch.manual_seed(0)
    input = torch.randn(3, 5, width).add(0.5).to(dtype)
    weight, bias = torch.randn(2, width).to(dtype)
    found = OPS.native_norm(input, weight, NONE, structs.RMS_NORM, 1e-6)
    expected = functional.rms_norm(input.double(), (width,), weight.double(), 1e-6)
    assert found.dtype == dtype and relative_error(found, expected) < ROUNDING[dtype]
    found = OPS.native_norm(input, weight, bias, structs.LAYER_NORM, 1e-6)
    expected = functional.layer_norm(input.double(), (width,), weight.double(), bias.double(), 1e-6)
    assert relative_error(found, expected) < ROUNDING[dtype]


SHAPES = [
    (2, 4, 4, 5, 5, 64),
    (1, 9, 3, 40, 40, 64),
    (1, 9, 3, 1, 300, 64),
    (2, 6, 2, 7, 33, 32),
    (1, 4, 1, 70, 200, 48),
]


@pytest.mark.parametrize("mask", ["none", "causal", "boolean"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_that_of_torch(shape, mask):
    for dtype in DTYPES:
        with naming(dtype):
            check_attention(shape, mask, dtype)


def check_attention(shape, mask, dtype):
    batch, heads, kv_heads, queries, keys, width = shape
    torch.manual_seed(0)
    # As projections leave them: heads side by side, turned.
    query = torch.randn(batch, queries, heads, width).to(dtype).transpose(1, 2)
    key, value = (torch.randn(batch, keys, kv_heads, width).to(dtype).transpose(1, 2) for _ in range(2))
    seen = torch.rand(batch, 1, queries, keys) > 0.3 if mask == "boolean" else None
    if seen is not None:
        seen[0, 0, 0] = False
    found = OPS.native_attention(
        query, key, value, torch.empty((), dtype=torch.bool) if seen is None else seen, 0.15, mask == "causal"
    )
    expected = functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), seen, is_causal=mask == "causal", scale=0.15, enable_gqa=True
    ).transpose(1, 2)
    assert found.dtype == dtype and found.is_contiguous()
    assert relative_error(found, expected.nan_to_num()) < ROUNDING[dtype]


def test_attention_of_nan_is_nan_where_it_is_seen():
    query, key, value = (torch.randn(1, 2, 40, 32) for _ in range(3))
    key[0, 1, 17, 3] = torch.nan
    output = OPS.native_attention(query, key, value, torch.empty((), dtype=torch.bool), 0.2, True)
    assert output[0, 17:, 1].isnan().all()
    assert output[0, :17, 1].isfinite().all() and output[0, :, 0].isfinite().all()


def test_a_token_gives_the_same_alone_and_among_others():
    for name in ("int8", "int4", "w8a8 symmetric"):
        spec, operands, blocks, bias = packed(name, 320, 192)
        input, whole = make_input(spec, 70), program(step_spec(operands, spec))
        together = OPS.native_linear(input, blocks, whole, bias, 192)
        for token in (0, 13, 69):
            alone = OPS.native_linear(input[token : token + 1], blocks, whole, bias, 192)
            assert torch.equal(alone[0], together[token])


def test_an_empty_input_gives_an_empty_output():
    input, *rest = linear_arguments("int8")
    assert OPS.native_linear(input[:0], *rest).shape == (0, 3, 48)
    assert OPS.native_linear(input.new_empty(2, 0, 64), *rest).shape == (2, 0, 48)


REFUSED = {
    "another width": lambda i, b, s, v, c: (i[..., :32], b, s, v, c),
    "no dimension": lambda i, b, s, v, c: (i.sum(), b, s, v, c),
    "another dtype": lambda i, b, s, v, c: (i.double(), b, s, v, c),
    "rows that lie unevenly": lambda i, b, s, v, c: (i.expand(2, 2, 3, 64).transpose(0, 2), b, s, v, c),
    "columns apart": lambda i, b, s, v, c: (i.new_zeros(64, 6).t(), b, s, v, c),
    "too few blocks": lambda i, b, s, v, c: (i, b[:-64], s, v, c),
    "too many blocks": lambda i, b, s, v, c: (i, torch.cat([b, b]), s, v, c),
    "blocks of another dtype": lambda i, b, s, v, c: (i, b.to(torch.int16), s, v, c),
    "blocks apart": lambda i, b, s, v, c: (i, torch.stack([b, b], 1)[:, 0], s, v, c),
    "a bias of another size": lambda i, b, s, v, c: (i, b, s, v[:7], c),
    "a bias of integers": lambda i, b, s, v, c: (i, b, s, v.int(), c),
    "no spec": lambda i, b, s, v, c: (i, b, torch.empty(0, dtype=torch.uint8), v, c),
    "a spec of another magic": lambda i, b, s, v, c: (i, b, s ^ 1, v, c),
    "other channels": lambda i, b, s, v, c: (i, b, s, v, c + 1),
    "the spec of a block": lambda i, b, s, v, c: (i, b, block_arguments("int8")[0][4], v, c),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_read(case):
    arguments = REFUSED[case](*linear_arguments("int8"))
    with pytest.raises(RuntimeError, match="hf_quant: "):
        OPS.native_linear(*arguments)


@pytest.mark.parametrize("index", [-1, 48, 2**40])
def test_an_index_out_of_range_is_an_index_error(index):
    _, blocks, spec, *_ = linear_arguments("w8a16")
    with pytest.raises(IndexError, match="out of range"):
        OPS.native_embedding(torch.tensor([0, index]), blocks, spec, torch.empty(0), 64)


@pytest.mark.parametrize("weight_symmetric", [True, False])
@pytest.mark.parametrize("input_symmetric", [True, False])
def test_sums_that_32_bits_do_not_hold_are_left_to_other_kernels(weight_symmetric, input_symmetric):
    scheme = Scheme(
        TensorScheme(symmetric=weight_symmetric), TensorScheme("int", 8, input_symmetric, "token", dynamic=True)
    )
    fits = [
        width for width in (33_000, 33_056, 65_536) if KERNEL.unsupported(LinearSpec(scheme, width, 1), CPU) is None
    ]
    assert fits == [33_000] if not weight_symmetric and not input_symmetric else len(fits) == 3
    spec = LinearSpec(scheme, fits[-1], 2)
    # Codes less zero points as large as can be, and all on one side.
    solved = RoundToNearest().solve(torch.tensor([[1.0], [-1.0]]).expand(2, spec.in_features), scheme.weight, "weight")
    operands = LinearOperands(solved)
    blocks, program_spec, none = arguments(KERNEL, operands, spec)
    for input in (torch.ones(1, spec.in_features), -torch.ones(1, spec.in_features)):
        found = OPS.native_linear(input, blocks, program_spec, none, 2)
        assert relative_error(found, reference_output(input, operands, spec)) < 1e-6


@pytest.mark.parametrize("tokens", [2, 5, 8, 9, 17])
@pytest.mark.parametrize("longest", [12, 20, 40])
def test_attention_of_a_short_text_is_the_same_alone_and_padded(tokens, longest):
    tokens = min(tokens, longest)
    query, key, value = torch.randn(3, 1, 12, longest, 32, generator=torch.Generator().manual_seed(tokens))
    short = [each[:, :, :tokens].contiguous() for each in (query, key, value)]
    alone = OPS.native_attention(*short, torch.empty((), dtype=torch.bool), 0.2, False)
    mask = (torch.arange(longest) < tokens).expand(1, 1, longest, longest).contiguous()
    assert torch.equal(OPS.native_attention(query, key, value, mask, 0.2, False)[:, :tokens], alone)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("gru", "projects"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("name", ["w8a16", "w4a16", "int8"])
def test_a_recurrence_computes_what_its_products_give_step_by_step(name, gru, projects, reverse):
    torch.manual_seed(0)
    sizes = (3, 3, 2, 1)
    arguments = recurrent_arguments(name, gru, projects, reverse, sizes)
    gates, hidden, cell, _, *weights = arguments[:10]
    hidden, cell = hidden.clone(), cell.clone()

    def product(states, blocks, spec, bias, channels):
        return OPS.native_linear(states.contiguous(), blocks, spec, bias, channels)

    rows = gates.split(sizes)
    expected = [None] * len(sizes)
    for step in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        count, given = sizes[step], rows[step]
        by_state = product(hidden[:count], *weights[:3], gates.shape[1])
        if gru:
            (r, z, n), (hr, hz, hn) = given.chunk(3, -1), by_state.chunk(3, -1)
            new = torch.tanh(n + torch.sigmoid(r + hr) * hn)
            update = torch.sigmoid(z + hz)
            hidden[:count] = (1 - update) * new + update * hidden[:count]
        else:
            i, f, g, o = (given + by_state).chunk(4, -1)
            cell[:count] = torch.sigmoid(f) * cell[:count] + torch.sigmoid(i) * torch.tanh(g)
            shown = torch.sigmoid(o) * torch.tanh(cell[:count])
            hidden[:count] = product(shown, *weights[3:], 64) if projects else shown
        expected[step] = hidden[:count].clone()
    found = OPS.native_recurrent(*arguments)
    for one, other in zip(found[: 2 if gru else 3], (torch.cat(expected), hidden, cell), strict=False):
        # A state may be rounded to the next code.
        assert one.shape == other.shape and relative_error(one, other) < (2e-2 if name == "int8" else 1e-4)


def test_gates_are_right_at_all_magnitudes():
    arguments = list(recurrent_arguments("w8a16", gru=True, sizes=(1,)))
    arguments[1] = torch.zeros(1, 128)
    arguments[6] = NONE
    for scale in (1e-30, 1e-6, 1e-2, 1.0, 10.0, 80.0, 100.0, 1e30, float("inf")):
        arguments[0] = torch.linspace(-1, 1, 384).view(1, 384) * scale
        _, update, new = arguments[0].chunk(3, -1)
        expected = (1 - torch.sigmoid(update)) * torch.tanh(new)
        torch.testing.assert_close(OPS.native_recurrent(*arguments)[0], expected, atol=3e-7, rtol=0)
    arguments[0] = torch.zeros(1, 384)
    arguments[0][0, 270] = float("nan")
    found = OPS.native_recurrent(*arguments)[0]
    assert found[0].isnan().nonzero().flatten().tolist() == [270 - 256]


def test_sizes_of_steps_are_checked():
    arguments = list(recurrent_arguments("int8"))
    for wrong in ([3, 3, 2], [3, 3], [1, 3, 3], [4, 3], [3, 3, 1, -1, 1], [7], [], [2**62, 3], [3, 3, 0, 1]):
        arguments[3] = torch.tensor(wrong, dtype=torch.int64)
        with pytest.raises(RuntimeError, match="batch sizes"):
            OPS.native_recurrent(*arguments)
