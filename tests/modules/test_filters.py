"""Filters of convolutions in groups: on codes what torch computes with the numbers that codes stand for."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

import hf_quant
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.plan import Candidate, fit
from hf_quant.config.presets import PRESETS
from hf_quant.kernels.native import library
from hf_quant.modules.convolution import open_convolution
from hf_quant.modules.filters import Filters, by_group, rows_read
from hf_quant.modules.quantized_filters import QuantizedFilters

STEPS = [(3, 1, 1), (2, 2, 1)]


class Model(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, layer):
        super().__init__(PreTrainedConfig())
        self.layer = layer
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input):
        return self.layer(input)


def quantized(name="int8", kernel=(3, 2), rotation=None):
    """Filters of 6 groups, 2 of each, for an input of 12 channels."""
    rows, channels = 12, 2
    torch.manual_seed(0)
    plain = Filters(rows, kernel, channels)
    nn.init.normal_(plain.weight)
    scheme = fit(PRESETS[name].scheme_for("filters", 12), Candidate("filters", 12), "filters")
    if rotation:
        scheme = replace(scheme, weight=replace(scheme.weight, rotation=rotation))
    module = QuantizedFilters(rows, kernel, channels, scheme, dtype=torch.float32)
    module.fill(RoundToNearest().solve(plain.weight.detach(), scheme.weight, "weight"))
    if module.input_scale is not None:
        module.input_scale.fill_(0.02)
        module.input_zero_point.fill_(-5)
    return plain, module


@pytest.mark.parametrize("name", ["int8", "int8-static", "int4", "w8a16", "w4a16"])
def test_weights_and_inputs_are_rounded_once(name):
    plain, module = quantized(name)
    input = torch.randn(2, 12, 7, 8)
    weight = module.dequantized_weight()
    rows = by_group(input, module)
    if module.spec.scheme.input is None:
        given = input
    elif name == "int8-static":
        codes = (rows / 0.02).round().sub(5).clamp(-128, 127)
        given = ((codes + 5) * 0.02).view(input.shape)
    else:
        low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
        scale = high / 255 - low / 255
        zero = (-128 - low / scale).round()
        given = (((rows / scale).round() + zero).clamp(-128, 127) - zero).mul(scale).view(input.shape)
    plain.weight.data = weight
    expected = plain(given, STEPS)
    torch.testing.assert_close(module(input, STEPS), expected, atol=1e-4, rtol=0)
    assert (module.taps is not None) == (module.spec.scheme.input is not None and library.load() is not None)


def test_grids_are_of_an_item_and_a_group():
    _, module = quantized("int8")
    input = torch.randn(3, 12, 6, 6)
    output = module(input, STEPS)
    other = input.clone()
    other[1, 2:4] *= 100  # group 1 of item 1
    changed = (module(other, STEPS) != output).flatten(2).any(2)
    assert changed[1, 2:4].all()
    changed[1, 2:4] = False
    assert not changed.any()


def test_no_items_are_no_rows():
    _, module = quantized("int8")
    assert by_group(torch.empty(0, 12, 5, 5), module).shape[0] == 0
    assert module(torch.empty(0, 12, 5, 5), STEPS).shape == (0, 12, 3, 2)


def test_gradients_pass_through_rounded_inputs():
    plain, module = quantized("int8")
    plain.weight.data = module.dequantized_weight()
    gradients = []
    for each in (plain, module):
        input = torch.ones(1, 12, 5, 5, requires_grad=True)
        each(input, STEPS).sum().backward()
        gradients.append(input.grad)
    torch.testing.assert_close(*gradients)


def test_a_rotated_weight_is_turned_back_and_its_inputs_are_not():
    plain, module = quantized("int8", (4, 2), rotation=16)
    steps = [(4, 1, 1), (2, 2, 1)]
    input = torch.randn(1, 12, 5, 5)
    expected, found = plain(input, steps).detach(), module(input, steps)
    assert module.taps is None and float((found - expected).norm() / expected.norm()) < 0.02


def test_copies_and_pickles_compute_alike():
    _, module = quantized("int8-static")
    input = torch.randn(1, 12, 5, 5)
    expected = module(input, STEPS)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(input, STEPS), expected)


def test_a_new_grid_is_computed_with():
    _, module = quantized("int8-static")
    input = torch.randn(1, 12, 5, 5)
    before = module(input, STEPS)
    state = module.state_dict()
    state["input_scale"] = state["input_scale"] * 4
    module.load_state_dict(state)
    assert not torch.equal(module(input, STEPS), before)


def test_rows_are_those_that_a_filter_is_multiplied_with():
    plain = Filters(6, (3, 2), 2)
    nn.init.normal_(plain.weight)
    input = torch.randn(2, 6, 7, 8)  # three groups
    rows = rows_read(plain, (input, STEPS))
    assert rows.shape == (2 * 3, 5, 4, 12)
    products = torch.einsum("gbhwk,gok->bgohw", rows.unflatten(0, (3, 2)), plain.weight.unflatten(0, (3, 2)))
    torch.testing.assert_close(products.flatten(1, 2), plain(input, STEPS), atol=1e-5, rtol=0)


def test_sequences_get_no_grid_of_their_own():
    scheme = PRESETS["int8"].scheme_for("filters", 12)
    assert fit(scheme, Candidate("filters", 12), "a").input.dynamic
    assert fit(scheme, Candidate("filters", 12, sequential=True), "a").input is None
    static = PRESETS["int8-static"].scheme_for("filters", 12)
    assert fit(static, Candidate("filters", 12, sequential=True), "a") == static


@pytest.mark.parametrize(
    ("module", "child"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), Filters),
        (nn.Conv3d(6, 12, 3, groups=3), Filters),
        (nn.Conv1d(6, 12, 3, groups=3), Filters),
        (nn.Conv1d(6, 12, 4, groups=6), nn.Embedding),
    ],
)
def test_only_a_depthwise_convolution_of_sequences_has_a_table(module, child):
    open_convolution(module)
    assert type(module.filters) is child


def test_later_numbers_of_a_sequence_change_nothing_before_them():
    torch.manual_seed(0)
    module = nn.Conv1d(8, 8, 4, groups=8, padding=3)
    open_convolution(module)
    input = torch.randn(1, 8, 20)
    longer = functional.pad(input, (0, 5), value=100.0)
    assert torch.equal(module(longer)[..., :20], module(input)[..., :20])


def test_inputs_far_outside_a_static_grid_are_its_ends():
    _, module = quantized("int8-static")
    module.input_scale.fill_(1e-9)
    input = torch.randn(2, 12, 5, 5)
    ends = torch.where(input > 0, 132e-9, -123e-9)
    torch.testing.assert_close(module.rounded(input), ends, atol=0, rtol=1e-6)
    torch.testing.assert_close(module.rounded(input.requires_grad_()).detach(), ends, atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["grouped", "whole", "linear"])
def test_a_bias_that_is_trained_gets_its_gradient_though_the_input_needs_none(kind):
    torch.manual_seed(0)
    layer = nn.Linear(12, 8) if kind == "linear" else nn.Conv2d(4, 8, 3, groups=2 if kind == "grouped" else 1)
    model = Model(layer).eval().requires_grad_(False)
    quantized_model = hf_quant.quantize(model, "int8", progress=False)
    (bias,) = (each for name, each in quantized_model.named_parameters() if name.endswith("bias"))
    bias.requires_grad_(True)
    input = torch.randn(3, 5, 12) if kind == "linear" else torch.randn(3, 4, 6, 7)
    output = quantized_model(input)
    output.sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, output.numel() / len(bias)))


@pytest.mark.parametrize("groups", [1, 2])
def test_same_padding_follows_a_dilation_that_is_set_afterwards(groups):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 8, 3, padding="same", groups=groups)
    model = hf_quant.quantize(Model(copy.deepcopy(plain)).eval().requires_grad_(False), "w8a16", progress=False)
    for module in (plain, model.layer):
        module.dilation = (2, 3)
    input = torch.randn(1, 4, 9, 10)
    expected, found = plain(input).detach(), model(input)
    assert found.shape == expected.shape and float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("part", ["taps", "scales", "sums"])
def test_the_check_sees_what_the_native_kernel_is_given(part):
    if library.load() is None:
        pytest.skip("installed without a compiler")
    torch.manual_seed(0)
    model = Model(nn.Conv2d(8, 16, 3, padding=1, groups=2)).eval().requires_grad_(False)
    model = hf_quant.quantize(model, "int8", progress=False)
    given = {"input": torch.randn(2, 8, 11, 10)}
    assert hf_quant.check(model, given).is_right
    filters = model.layer.filters
    filters.__dict__["taps"] = filters.taps._replace(**{part: getattr(filters.taps, part) + 1})
    assert [each.module for each in hf_quant.check(model, given).wrong] == ["layer.filters"]
