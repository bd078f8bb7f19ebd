"""Learned grids: always grids that can be stored, started from statistics, with the gradients of LSQ+."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import TrainingError
from hf_quant.formats import format_of
from hf_quant.qat.check import check_grids, negative_scales
from hf_quant.qat.fake_quantize import LSQ, FakeQuantize
from hf_quant.qat.learned_grid import LearnedGrid


def grid_of(scheme, scale, offset=None):
    grid = LearnedGrid(scheme, (1, 1), 16)
    with torch.no_grad():
        grid.scale.fill_(scale)
        if offset is not None:
            grid.offset.fill_(offset)
    return grid


@settings(max_examples=50, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 8]),
    group=st.booleans(),
    scale=st.floats(1e-6, 1e3),
    offset=st.floats(-1e3, 1e3),
)
def test_grids_are_as_they_will_be_stored(bits, group, scale, offset):
    granularity = {"granularity": "group", "group_size": 16} if group else {}
    scheme = TensorScheme(bits=bits, symmetric=False, **granularity)
    format = format_of(scheme)
    found, zero_point = grid_of(scheme, scale, offset)()
    assert torch.equal(found.to(format.scale_dtype).float(), found)
    assert torch.equal(zero_point, zero_point.round())
    assert format.quant_min <= zero_point.item() <= format.quant_max


@settings(max_examples=40, deadline=None)
@given(symmetric=st.booleans(), bits=st.sampled_from([2, 4, 8]), low=st.floats(-9, -0.1), high=st.floats(0.1, 9))
def test_a_grid_starts_as_the_one_it_was_given(symmetric, bits, low, high):
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    scale, zero_point = format_of(scheme).weight_grid(torch.tensor([[low]]), torch.tensor([[high]]))
    grid = LearnedGrid(scheme, (1, 1), 16)
    assert not grid.is_initialised and bool(grid.scale.isnan())
    grid.initialise(scheme, scale, zero_point)
    found, zero = grid()
    assert grid.is_initialised and torch.equal(found, scale)
    assert symmetric or torch.equal(zero, zero_point.float())


@pytest.mark.parametrize(("bits", "symmetric", "highest"), [(4, True, 7), (8, True, 127), (4, False, 15)])
def test_gradients_are_scaled_by_the_count_of_numbers_and_the_highest_code(bits, symmetric, highest):
    grid = LearnedGrid(TensorScheme(bits=bits, symmetric=symmetric), (1, 1), 300)
    assert grid.gradient_scale == pytest.approx(1 / math.sqrt(300 * highest))


def test_offset_and_scale_have_the_gradients_of_lsq_plus():
    # x_hat = round(clip((x - offset) / scale, n, p)) * scale + offset (arXiv:2004.09576, eq. 5 and 6)
    scheme = TensorScheme(bits=4, symmetric=False)
    format = format_of(scheme)
    grid = grid_of(scheme, 0.25, -0.5)  # zero point 2
    real = torch.tensor([[-9.0, -0.3, 0.1, 0.6, 9.0]])
    incoming = torch.tensor([[1.0, 2.0, 3.0, 5.0, 7.0]])
    scale, zero_point = grid()
    FakeQuantize.apply(real, scale, zero_point, format, LSQ).backward(incoming)
    v = (real + 0.5) / 0.25
    of_scale = torch.where(v < -8, -8.0, torch.where(v > 7, 7.0, v.round() - v))
    of_offset = ((v < -8) | (v > 7)).float()
    assert grid.scale.grad.item() == pytest.approx((incoming * of_scale).sum().item(), rel=1e-5)
    assert grid.offset.grad.item() == pytest.approx((incoming * of_offset).sum().item(), rel=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_of_zeros_start_in_the_middle_of_the_others(symmetric):
    scheme = TensorScheme(bits=4, symmetric=symmetric)
    # Where scales have a sign, those of the first and the last are negative.
    low, high = torch.tensor([[-0.5], [0.0], [-3.0], [-1.0]]), torch.tensor([[1.0], [0.0], [1.0], [2.0]])
    scale, zero_point = format_of(scheme).weight_grid(low, high)
    grid = LearnedGrid(scheme, (4, 1), 16)
    grid.initialise(scheme, scale, zero_point)
    found, zero = grid()
    assert torch.equal(found[[0, 2, 3]], scale[[0, 2, 3]]) and torch.equal(found[1], scale[3].abs())
    assert symmetric or zero[1].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_of_a_model_leave_grids_in_float32(dtype):
    grid = grid_of(TensorScheme(bits=4, symmetric=False), 1e-9, 1e-10).to(dtype)
    assert grid.scale.dtype is grid.offset.dtype is torch.float32
    assert grid.scale.item() == pytest.approx(1e-9)


def test_a_negative_scale_has_the_gradient_of_the_formula():
    scheme = TensorScheme(bits=4)
    format, grid = format_of(scheme), grid_of(scheme, -0.25)
    real = torch.tensor([[-9.0, -0.3, 0.1, 0.6, 9.0]])
    incoming = torch.tensor([[1.0, 2.0, 3.0, 5.0, 7.0]])
    scale, zero_point = grid()
    found = FakeQuantize.apply(real, scale, zero_point, format, LSQ)
    assert found.tolist() == [[-1.75, -0.25, 0.0, 0.5, 2.0]]
    found.backward(incoming)
    v = real / -0.25
    of_scale = torch.where(v < -8, -8.0, torch.where(v > 7, 7.0, v.round() - v))
    assert grid.scale.grad.item() == pytest.approx((incoming * of_scale).sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("signed", "scale", "refused"),
    [(True, -0.25, False), (True, 0.0, True), (True, math.nan, True), (False, -0.25, True), (False, 0.25, False)],
)
def test_a_scale_may_be_negative_only_where_scales_have_a_sign(signed, scale, refused):
    scheme = TensorScheme(bits=4 if signed else 8)
    grid = LearnedGrid(scheme, (2, 1), 16, signed=format_of(scheme).has_signed_scales)
    grid.initialise(scheme, torch.full((2, 1), 0.5), None)
    with torch.no_grad():
        grid.scale[1] = scale
    model = torch.nn.ModuleDict(
        {"linear": torch.nn.ModuleDict({"weight_quantizer": torch.nn.ModuleDict({"grid": grid})})}
    )
    if not refused:
        check_grids(model)
        return
    with pytest.raises(TrainingError, match="the learned scale of the weights of linear"):
        check_grids(model)


@pytest.mark.parametrize(("start", "end", "refused"), [(0.5, -0.25, True), (-0.5, 0.25, True), (-0.5, -0.25, False)])
def test_a_scale_with_a_sign_keeps_its_side_of_zero(start, end, refused):
    grid = LearnedGrid(TensorScheme(bits=4), (2, 1), 16, signed=True)
    grid.initialise(grid.scheme, torch.tensor([[0.5], [start]]), None)
    negative = negative_scales(grid)
    with torch.no_grad():
        grid.scale[1] = end
    check_grids(grid)  # that knows of no side
    if not refused:
        check_grids(grid, negative)
        return
    with pytest.raises(TrainingError, match="went through zero"):
        check_grids(grid, negative)
