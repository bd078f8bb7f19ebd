"""The fake quantization function: numbers of `AffineFormat`, gradients of the papers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.formats.affine import AffineFormat
from hf_quant.qat.fake_quantize import LSQ, PACT, STRAIGHT, FakeQuantize

BITS = st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16])


def problem(rows, width, bits, symmetric, seed, one_grid=False, dtype=torch.float32):
    """Rows of which some numbers are clipped, a scale and a zero point (None when symmetric)."""
    generator = torch.Generator().manual_seed(seed)
    format = AffineFormat(bits, symmetric)
    real = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    count = 1 if one_grid else rows
    scale = torch.rand(count, 1, generator=generator, dtype=torch.float64) + 0.5
    scale *= 4 / (format.quant_max - format.quant_min)
    zero_point = None
    if not symmetric:
        limits = (format.quant_min // 2, format.quant_max // 2 + 1)
        zero_point = torch.randint(*limits, (count, 1), generator=generator).to(dtype)
    return format, real.to(dtype), scale.to(dtype), zero_point


def apply(format, real, scale, zero_point, gradient, factor=1.0):
    return FakeQuantize.apply(real, scale, zero_point, format, gradient, factor)


def gradients(format, real, scale, zero_point, gradient, incoming, factor=1.0):
    leaves = [None if t is None else t.clone().requires_grad_() for t in (real, scale, zero_point)]
    apply(format, *leaves, gradient, factor).backward(incoming)
    return [None if leaf is None else leaf.grad for leaf in leaves]


@settings(max_examples=60, deadline=None)
@given(bits=BITS, symmetric=st.booleans(), one_grid=st.booleans(), seed=st.integers(0, 10**6))
def test_numbers_are_those_that_codes_of_the_format_decode_to(bits, symmetric, one_grid, seed):
    format, real, scale, zero_point = problem(5, 17, bits, symmetric, seed, one_grid)
    codes = format.encode(real, scale, zero_point)
    for gradient in (STRAIGHT, LSQ, PACT):
        assert torch.equal(apply(format, real, scale, zero_point, gradient), format.decode(codes, scale, zero_point))


def test_long_rows_and_many_rows_are_handled_part_by_part_alike():
    for rows, width in ((3, 200_000), (3000, 128), (1, 7)):
        format, real, scale, zero_point = problem(rows, width, 4, False, 0)
        expected = format.decode(format.encode(real, scale, zero_point), scale, zero_point)
        assert torch.equal(apply(format, real, scale, zero_point, LSQ), expected)
        whole = gradients(format, real, scale, zero_point, LSQ, torch.ones_like(real))
        half = [
            gradients(format, real[i : i + 1], scale[i : i + 1], zero_point[i : i + 1], LSQ, torch.ones(1, width))
            for i in range(min(rows, 3))
        ]
        for index, found in enumerate(half):
            for one, all_of_them in zip(found, whole, strict=True):
                assert torch.allclose(one, all_of_them[index : index + 1], rtol=1e-4, atol=1e-2)


def closed_form(format, real, scale, zero_point, incoming, rounding):
    """Gradients as the papers write them, in float64, one number at a time."""
    zero = torch.zeros_like(scale) if zero_point is None else zero_point
    low, high = format.quant_min - zero, format.quant_max - zero
    v = real.double() * scale.reciprocal().double()
    # Decided on the float32 quotient, as rounding is.
    steps = (real * scale.reciprocal()).round()
    inside = (steps >= low) & (steps <= high)
    q = torch.minimum(torch.maximum(steps, low), high).double()
    of_scale = torch.where(inside, (q - v) if rounding else torch.zeros_like(q), q)
    of_zero = torch.where(inside, torch.zeros_like(q), -scale.double().expand_as(q))
    sums = [(incoming.double() * each).sum(-1, keepdim=True) for each in (of_scale, of_zero)]
    if scale.shape[0] == 1:
        sums = [each.sum(0, keepdim=True) for each in sums]
    return torch.where(inside, incoming, 0.0), *sums


@settings(max_examples=60, deadline=None)
@given(
    bits=BITS,
    symmetric=st.booleans(),
    one_grid=st.booleans(),
    rounding=st.booleans(),
    factor=st.floats(0.01, 2.0),
    seed=st.integers(0, 10**6),
)
def test_gradients_are_those_of_lsq_and_pact(bits, symmetric, one_grid, rounding, factor, seed):
    format, real, scale, zero_point = problem(4, 33, bits, symmetric, seed, one_grid)
    incoming = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed + 1))
    found = gradients(format, real, scale, zero_point, LSQ if rounding else PACT, incoming, factor)
    of_real, of_scale, of_zero = closed_form(format, real, scale, zero_point, incoming, rounding)
    assert torch.equal(found[0], of_real)
    size = incoming.abs().sum() * 2 ** (bits - 1)
    assert torch.allclose(found[1].double(), of_scale * factor, rtol=1e-4, atol=float(size) * 1e-6)
    if not symmetric:
        assert torch.allclose(found[2].double(), of_zero * factor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_s_learnable_fake_quantization_has_the_same_gradients(symmetric):
    format, real, scale, zero_point = problem(6, 40, 4, symmetric, 3)
    incoming = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    found = gradients(format, real, scale, zero_point, LSQ, incoming, 0.25)
    leaves = [real.clone(), scale.flatten().clone(), torch.zeros(6) if symmetric else zero_point.flatten().clone()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    torch._fake_quantize_learnable_per_channel_affine(*leaves, 0, format.quant_min, format.quant_max, 0.25).backward(
        incoming
    )
    assert torch.equal(found[0], leaves[0].grad)
    assert torch.allclose(found[1].flatten(), leaves[1].grad, rtol=1e-4, atol=1e-5)
    if not symmetric:
        assert torch.allclose(found[2].flatten(), leaves[2].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_where_everything_is_clipped_gradients_are_true_derivatives(symmetric):
    format, real, scale, zero_point = problem(3, 8, 4, symmetric, 5, dtype=torch.float64)
    real = torch.where(real > 0, 50.0, -50.0).to(torch.float64)

    def clipped(scale, *zero_point):
        # Of `real` the derivative is zero, which gradcheck sees as well.
        return apply(format, real, scale, zero_point[0] if zero_point else None, LSQ)

    leaves = [scale.requires_grad_(), *([] if symmetric else [zero_point.requires_grad_()])]
    assert torch.autograd.gradcheck(clipped, leaves)


def test_where_nothing_is_clipped_the_gradient_passes_and_the_zero_point_has_none():
    format, real, scale, zero_point = problem(3, 8, 8, False, 6)
    found = gradients(format, real * 0.01, scale, zero_point, LSQ, torch.ones(3, 8))
    assert torch.equal(found[0], torch.ones(3, 8))
    assert not found[2].any()


def test_a_straight_gradient_passes_clipped_numbers_too():
    format, real, scale, _ = problem(3, 8, 2, True, 7)
    incoming = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    leaf = (real * 100).requires_grad_()
    apply(format, leaf, scale, None, STRAIGHT).backward(incoming)
    assert torch.equal(leaf.grad, incoming)


def test_nan_stays_nan_and_spoils_no_other_number():
    format, real, scale, zero_point = problem(2, 8, 4, False, 8)
    real[0, 3] = torch.nan
    rounded = apply(format, real, scale, zero_point, LSQ)
    assert rounded.isnan().nonzero().tolist() == [[0, 3]]


def test_nothing_is_kept_for_the_backward_pass_but_the_arguments():
    format, real, scale, zero_point = problem(4, 8, 4, False, 9)
    kept = []
    leaves = [real.requires_grad_(), scale.requires_grad_()]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        apply(format, *leaves, zero_point, LSQ)
    assert {tensor.data_ptr() for tensor in kept} == {t.data_ptr() for t in (*leaves, zero_point)}
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        apply(format, *leaves, zero_point, STRAIGHT)
    assert kept == []
