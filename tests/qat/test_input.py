"""Inputs in training are, number for number, those that kernels compute with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CalibrationError
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import fake_quantize_input
from hf_quant.qat.input import DynamicInput, StaticInput
from hf_quant.qat.options import QATOptions
from tests.qat.schemes import DYNAMIC, STATIC, scheme_with

WIDTH = 64


def tokens(seed=0, shape=(2, 5), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, WIDTH, generator=generator) * torch.rand(*shape, 1, generator=generator) * 3
    return values.to(dtype)


def expected(values, scheme, scale=None, zero_point=None):
    operands = LinearOperands({}, input_scale=scale, input_zero_point=zero_point)
    return fake_quantize_input(values.flatten(0, -2), operands, LinearSpec(scheme, WIDTH, 1)).view(values.shape)


def static(scheme, values, **options):
    made = StaticInput(scheme, WIDTH, QATOptions(**options))
    made.observing = True
    made(values)
    made.observing = False
    made.next_step("linear")
    made.initialise("linear")
    return made


@pytest.mark.parametrize("input", DYNAMIC.values(), ids=DYNAMIC)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_dynamic_inputs_are_those_of_the_kernels(input, seed, dtype):
    scheme, values = scheme_with(input), tokens(seed, dtype=dtype)
    assert torch.equal(DynamicInput(scheme)(values), expected(values, scheme))


@pytest.mark.parametrize("input", DYNAMIC.values(), ids=DYNAMIC)
def test_the_gradient_of_a_dynamic_input_passes_straight_through(input):
    scheme, values = scheme_with(input), tokens().requires_grad_()
    incoming = tokens(seed=1)
    DynamicInput(scheme)(values).backward(incoming)
    back = incoming if scheme.weight.rotation is None else rotate(incoming, scheme.weight.rotation)
    assert torch.allclose(values.grad, back, atol=1e-5)


@pytest.mark.parametrize("input", STATIC.values(), ids=STATIC)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), moved=st.floats(0.5, 2))
def test_static_inputs_are_those_of_the_kernels(input, seed, moved):
    scheme = scheme_with(input)
    made = static(scheme, tokens(seed))
    with torch.no_grad():
        made.grid.scale *= moved
    scale, zero_point = made.solved()
    values = tokens(seed + 1)
    zero_point = None if zero_point is None else zero_point.view(1)
    assert torch.equal(made(values), expected(values, scheme, scale.view(1), zero_point))


@pytest.mark.parametrize("input", STATIC.values(), ids=STATIC)
def test_a_static_grid_starts_as_the_range_that_was_observed(input):
    scheme, values = scheme_with(input), tokens()
    made = static(scheme, values)
    rotated = rotate(values, 32)
    step = float(made.grid.scale.detach())
    assert (made(values) - rotated).abs().max().item() <= step * (0.5 if input.symmetric else 1.0) * 1.001
    wider = static(scheme, values * 2)
    assert float(wider.grid.scale.detach()) == pytest.approx(2 * step, rel=1e-5)


def test_only_clipped_inputs_move_the_scale_of_pact():
    scheme = scheme_with(STATIC["static"])
    for method, moves in (("lsq", True), ("pact", False)):
        made = static(scheme, tokens(), inputs=method)
        made(tokens()).sum().backward()
        assert bool(made.grid.scale.grad != 0) is moves
        made.grid.scale.grad = None
        made(tokens() * 3).square().sum().backward()
        assert float(made.grid.scale.grad) > 0


def test_a_step_counts_once_however_often_its_activations_are_computed():
    scheme = scheme_with(STATIC["static"])
    once, twice = (StaticInput(scheme, WIDTH, QATOptions()) for _ in range(2))
    once.observing = twice.observing = True
    for seed in range(3):
        once(tokens(seed))
        for half in (tokens(seed)[:1], tokens(seed)[1:], tokens(seed)):
            twice(half)
        for made in (once, twice):
            made.next_step("linear")
    assert int(twice.batches) == 3
    assert torch.equal(once.low, twice.low) and torch.equal(once.high, twice.high)


def test_observed_ranges_come_back_from_a_checkpoint():
    scheme = scheme_with(STATIC["static asymmetric"])
    made, other = (StaticInput(scheme, WIDTH, QATOptions()) for _ in range(2))
    made.observing = other.observing = True
    made(tokens(0))
    made.next_step("linear")
    other.load_state_dict(made.state_dict())
    for quantizer in (made, other):
        quantizer(tokens(1))
        quantizer.next_step("linear")
        quantizer.initialise("linear")
    assert torch.equal(made.grid.scale, other.grid.scale)


def test_inputs_that_were_never_observed_or_hold_nan_are_refused_by_name():
    made = StaticInput(scheme_with(STATIC["static"]), WIDTH, QATOptions())
    with pytest.raises(CalibrationError, match=r"no input of layer\.1 was observed"):
        made.initialise("layer.1")
    made.observing = True
    made(tokens() * torch.nan)
    with pytest.raises(CalibrationError, match=r"inputs of layer\.1: .*NaN"):
        made.next_step("layer.1")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_number_never_turns_into_a_good_one(bad):
    values = tokens()
    values[0, 0, 0] = bad
    for input in DYNAMIC.values():
        assert not bool(DynamicInput(scheme_with(input))(values)[0, 0].isfinite().all())
    assert not bool(static(scheme_with(STATIC["static"]), tokens())(tokens() * torch.nan).isfinite().any())


def test_inputs_without_tokens_pass():
    for made in (DynamicInput(scheme_with(DYNAMIC["token"])), static(scheme_with(STATIC["static"]), tokens())):
        assert made(tokens()[:, :0]).shape == (2, 0, WIDTH)


def test_a_static_input_without_a_range_is_refused():
    made = StaticInput(scheme_with(STATIC["static"]), WIDTH, QATOptions())
    with pytest.raises(CalibrationError, match="was never observed"):
        made(tokens())
    made.enabled = False
    made(tokens())  # a float warm-up asks for none
