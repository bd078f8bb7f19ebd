"""Which convolutions are opened: those that compute as torch's do, on a weight of their own."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hf_quant.modules.convolution import OpenedConvolution
from hf_quant.opening.convolutions import convolutions
from hf_quant.opening.open import opened


class Named(nn.Conv2d):
    pass


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Standardized(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


def test_those_of_torch_and_of_classes_that_change_nothing_are():
    model = nn.ModuleList([nn.Conv1d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv3d(2, 3, 1), Named(2, 3, 1)])
    assert convolutions(model) == set(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_those_that_compute_something_else_are_not():
    replaced = nn.Conv2d(2, 2, 1)
    replaced.forward = lambda input: input
    model = nn.ModuleList(
        [
            Scaled(2, 2, 1),
            Standardized(2, 2, 1),
            weight_norm(nn.Conv1d(2, 2, 1)),
            torch.nn.utils.weight_norm(nn.Conv1d(2, 2, 1)),
            nn.ConvTranspose1d(2, 2, 1),
            nn.LazyConv2d(2, 1),
            replaced,
        ]
    )
    assert not convolutions(model)


def test_a_weight_that_two_modules_have_stays_whole():
    model = nn.ModuleList([nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)])
    model[1].weight = model[0].weight
    assert convolutions(model) == {model[2]}


def test_a_model_is_open_only_while_it_is_worked_on():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    expected, weights = model(batch := torch.randn(1, 3, 9, 9)), [module.weight for module in model]
    with opened(model) as opening:
        assert all(isinstance(module, OpenedConvolution) for module in model)
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=0)
        assert opening.keep(["0.filters"]) == ["1"]
    assert isinstance(model[0], OpenedConvolution) and type(model[1]) is nn.Conv2d
    assert model[1].weight is weights[1]
    model[0].close()
    assert torch.equal(model(batch), expected)
