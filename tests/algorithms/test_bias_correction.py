"""Bias correction: quantized layers have the mean outputs of float ones."""

import pytest
import torch
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from hf_quant.algorithms.bias_correction import bias_correction
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from tests.algorithms.problem import decoded, make_inputs, make_weight


def quantized(weight):
    scheme = TensorScheme(bits=3, symmetric=False, granularity="group", group_size=32, rotation=32)
    return decoded(RoundToNearest().solve(weight, scheme, "weight"), scheme, weight.shape)


def test_outputs_of_a_linear_have_their_mean_again():
    weight, inputs, bias = make_weight(), make_inputs() + 1, torch.randn(24)
    wanted = linear(inputs, weight, bias).mean(0)
    corrected = bias + bias_correction(weight, quantized(weight), inputs.mean(0))
    assert not torch.allclose(linear(inputs, quantized(weight), bias).mean(0), wanted, atol=1e-3)
    assert torch.allclose(linear(inputs, quantized(weight), corrected).mean(0), wanted, atol=1e-3)


def test_outputs_of_a_conv1d_have_their_mean_again():
    layer, inputs = Conv1D(24, 64), make_inputs() + 1
    wanted = layer(inputs).mean(0)
    rounded = quantized(layer.weight.t()).t()
    correction = bias_correction(layer.weight, rounded, inputs.mean(0), inputs_first=True)
    with torch.no_grad():
        layer.weight.copy_(rounded)
        layer.bias += correction
    assert torch.allclose(layer(inputs).mean(0), wanted, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_correction_is_float32_and_needs_no_gradient(dtype):
    weight = torch.nn.Parameter(make_weight(dtype=dtype))
    correction = bias_correction(weight, weight * 0.5, torch.ones(64))
    assert correction.dtype == torch.float32 and correction.shape == (24,) and not correction.requires_grad


def test_a_weight_without_error_needs_no_correction():
    weight = make_weight()
    assert torch.equal(bias_correction(weight, weight, torch.ones(64)), torch.zeros(24))


@pytest.mark.parametrize(
    ("shapes", "inputs_first"),
    [(((4, 8), (8, 4), (8,)), False), (((4, 8), (4, 8), (4,)), False), (((4, 8), (4, 8), (8,)), True)],
)
def test_shapes_that_do_not_go_together_are_a_typed_error(shapes, inputs_first):
    with pytest.raises(WeightError, match="do not go together"):
        bias_correction(*(torch.ones(shape) for shape in shapes), inputs_first=inputs_first)
