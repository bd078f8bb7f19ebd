"""NaN and infinity in a row: the row does not become numbers, and no other row changes by a bit."""

from itertools import product

import pytest
import torch

from hf_quant.kernels.native import library, structs
from hf_quant.kernels.native.linear import step_spec
from tests.kernels.native.test_fuzz import machine
from tests.kernels.native.test_ops import NONE, OPS, block_arguments, linears_arguments, packed, program
from tests.naming import naming
from tests.quantized_linear import DTYPES, make_input, spec_for

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

NAMES = ("int8", "int4", "w4a16", "w3a8 g32", "w8a8 static asymmetric", "w8a8 symmetric", "w2 g64 symmetric")
UNMASKED = torch.empty((), dtype=torch.bool)
TOKENS = (3, 13, 40)
every_isa = pytest.mark.parametrize("isa", library.runnable_isas())
every_bad = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


def spoiled(input, bad):
    """A copy of `input`, ``[tokens, width]``, with one bad number in its second row."""
    input = input.clone()
    input[1, input.shape[1] // 2] = bad
    return input


def check(before, after, is_float, bad):
    """Float inputs keep what is infinite infinite, as torch does; codes cannot."""
    others = [row for row in range(len(before)) if row != 1]
    assert torch.equal(after[others], before[others]) and before.isfinite().all()
    assert not after[1].isfinite().any() if is_float and bad == bad else after[1].isnan().all()


@every_isa
@every_bad
def test_in_linears(isa, bad):
    for name in NAMES:
        spec, operands, blocks, bias = packed(name)
        is_float = spec.scheme.input is None
        for dtype, activation in zip(
            (*DTYPES, *DTYPES), (None, "relu", "gelu", None, "gelu_tanh", "silu"), strict=True
        ):
            if is_float and bad == bad and activation is not None:
                continue  # an activation of an infinity may be a number
            whole = program(step_spec(operands, spec), activation=structs.ACTIVATIONS[activation])
            for tokens in TOKENS:
                input = make_input(spec, tokens, dtype)
                with machine(isa, 1):
                    before, after = (
                        OPS.native_linear(given, blocks, whole, bias, 48) for given in (input, spoiled(input, bad))
                    )
                check(before, after, is_float, bad)


@every_isa
@every_bad
def test_in_linears_side_by_side(isa, bad):
    for name in NAMES[:5]:
        _, *rest = linears_arguments(name)[0]
        spec = spec_for(name, 64, 48)
        for tokens in TOKENS:
            input = make_input(spec, tokens)
            with machine(isa, 1):
                before, after = (OPS.native_linears(given, *rest) for given in (input, spoiled(input, bad)))
            for pair in zip(before, after, strict=True):
                check(*pair, spec.scheme.input is None, bad)


@every_isa
@pytest.mark.parametrize("where", ["input", "residual"])
def test_in_blocks(isa, where):
    for name in NAMES[:3]:
        for gated in (True, False):
            for norm in (0, structs.RMS_NORM, structs.LAYER_NORM):
                arguments = list(block_arguments(name, gated, norm=norm, activation="relu")[0])
                index = 0 if where == "input" else 8
                with machine(isa, 1):
                    before = OPS.native_block(*arguments)
                    arguments[index] = spoiled(arguments[index], torch.nan)
                    after = OPS.native_block(*arguments)
                if where == "input" or norm:
                    check(before, after, False, torch.nan)
                else:
                    assert after.isnan().sum() == 1 and torch.equal(after.where(~after.isnan(), before), before)


@every_isa
@every_bad
def test_in_norms(isa, bad):
    torch.manual_seed(0)
    for width in (7, 64):
        for kind in (structs.RMS_NORM, structs.LAYER_NORM):
            input = torch.randn(5, width)
            with machine(isa, 1):
                before, after = (
                    OPS.native_norm(given, torch.ones(width), NONE, kind, 1e-6)
                    for given in (input, spoiled(input, bad))
                )
            assert torch.equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])
            # The root mean square of an infinite row is infinite: what was finite becomes zero, as in torch.
            expected = torch.nn.functional.rms_norm(spoiled(input, bad), (width,), eps=1e-6)
            finite = after[1].isfinite()
            assert not finite.any() or (kind == structs.RMS_NORM and torch.equal(finite, expected[1].isfinite()))


@every_isa
@every_bad
def test_in_a_query_of_attention(isa, bad):
    for dtype, queries in product(DTYPES, (1, 6, 40)):
        with naming(dtype, f"{queries} queries"):
            check_attention(isa, bad, dtype, queries)


def check_attention(isa, bad, dtype, queries):
    torch.manual_seed(0)
    query = torch.randn(2, 4, queries, 32).to(dtype)
    key, value = torch.randn(2, 2, 2, queries, 32).to(dtype).abs()  # of one sign: all scores may be -inf
    seen = torch.ones(1, 1, queries, queries, dtype=torch.bool).tril()
    for mask, causal in ((UNMASKED, False), (UNMASKED, True), (seen, False)):
        with machine(isa, 1):
            before = OPS.native_attention(query, key, value, mask, 0.2, causal)
            poisoned = query.clone()
            poisoned[0, 1, 0, 3] = bad
            after = OPS.native_attention(poisoned, key, value, mask, 0.2, causal)
        assert after[0, 0, 1].isnan().all()
        after[0, 0, 1] = before[0, 0, 1]
        assert torch.equal(after, before)


@every_isa
@pytest.mark.parametrize("queries", [6, 40])
@pytest.mark.parametrize("where", ["key", "value"])
def test_in_a_key_or_value_of_attention(isa, where, queries):
    torch.manual_seed(0)
    query = torch.randn(2, 4, queries, 32)
    key, value = torch.randn(2, 2, 2, queries, 32)
    with machine(isa, 1):
        before = OPS.native_attention(query, key, value, UNMASKED, 0.2, True)
        (key if where == "key" else value)[0, 1, queries // 2, 3] = torch.nan
        after = OPS.native_attention(query, key, value, UNMASKED, 0.2, True)
    # Heads 2 and 3 read key-value head 1; a NaN among values is one of a single channel.
    channels = slice(None) if where == "key" else 3
    assert after[0, queries // 2 :, 2:, channels].isnan().all()
    assert torch.equal(after[1], before[1]) and torch.equal(after[0, :, :2], before[0, :, :2])
    if where == "key":
        assert torch.equal(after[0, : queries // 2], before[0, : queries // 2])


@every_isa
def test_a_query_that_sees_nothing_gives_zeros_whatever_is_hidden(isa):
    torch.manual_seed(0)
    for queries in (6, 40):
        query, key, value = torch.randn(3, 1, 2, queries, 32)
        key[0, 0, 3] = torch.nan
        seen = torch.rand(1, 1, queries, queries) > 0.5
        seen[..., 3], seen[0, 0, 2] = False, False
        with machine(isa, 1):
            output = OPS.native_attention(query, key, value, seen, 0.2, False)
        assert output.isfinite().all() and not output[0, 2].any()
