"""Opened convolutions: what the classes of torch compute, in every geometry, and back."""

import copy
import pickle

import pytest
import torch
from torch import nn

from hf_quant.modules.convolution import OpenedConvolution, open_convolution, patches
from hf_quant.modules.opened import Opened
from hf_quant.opening.open import close

SPACES = {nn.Conv1d: (19,), nn.Conv2d: (13, 16), nn.Conv3d: (5, 9, 8)}
OPTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 4, "stride": 4, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "valid", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "stride": 2},
    {"kernel_size": 3, "groups": 6, "padding": 1},
    {"kernel_size": 3, "groups": 3, "bias": False},
]
CASES = [(kind, options) for kind in SPACES for options in OPTIONS]
geometries = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)


def made(kind, options, channels=6):
    torch.manual_seed(0)
    module = kind(channels, 12, **options).eval()
    opened = copy.deepcopy(module)
    open_convolution(opened)
    assert isinstance(opened, Opened) and isinstance(opened, kind)
    return module, opened


def layouts(kind, channels=6):
    """A batch that is contiguous, one with channels innermost, a slice, and one without a batch."""
    batch = torch.randn(2, channels, *SPACES[kind])
    last = batch.movedim(1, -1).contiguous().movedim(-1, 1)
    return [batch, last, batch[..., :-1], batch[0]]


@geometries
def test_opened_floats_give_what_torch_gives(kind, options):
    module, opened = made(kind, options)
    for batch in layouts(kind):
        expected, found = module(batch), opened(batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.shape == expected.shape


def test_outputs_lie_in_memory_as_those_of_torch():
    for options in ({"kernel_size": 1}, {"kernel_size": 3, "groups": 6, "padding": 1}):
        module, opened = made(nn.Conv2d, options)
        for batch in layouts(nn.Conv2d)[:2]:
            assert opened(batch).stride() == module(batch).stride()


@geometries
def test_gradients_reach_input_weight_and_bias(kind, options):
    module, opened = made(kind, options)
    batch = torch.randn(2, 6, *SPACES[kind])
    found = []
    for each in (module, opened):
        given = batch.clone().requires_grad_()
        each(given).square().sum().backward()
        if each is opened:
            parameters = {name.replace("filters.", ""): parameter for name, parameter in each.named_parameters()}
            parameters["weight"] = parameters["weight"].grad.unflatten(1, (*module.kernel_size, -1)).movedim(-1, 1)
            bias = parameters.get("bias")
        else:
            parameters = {"weight": each.weight.grad}
            bias = each.bias
        found.append([given.grad, parameters["weight"], *([] if bias is None else [bias.grad])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@geometries
def test_a_closed_one_is_what_it_was(kind, options):
    module, opened = made(kind, options)
    names = dict(module.named_parameters()).keys()
    batch = torch.randn(2, 6, *SPACES[kind])
    opened = copy.deepcopy(opened)
    assert torch.equal(opened.weight, module.weight) and opened.state_dict().keys() == module.state_dict().keys()
    close(holder := nn.Sequential(pickle.loads(pickle.dumps(opened))))
    (closed,) = holder
    assert type(closed) is kind and dict(closed.named_parameters()).keys() == names
    assert torch.equal(closed(batch), module(batch)) and closed.weight.is_contiguous()


def test_the_child_has_the_memory_of_the_weight():
    module = nn.Conv2d(3, 8, 5)
    weight = module.weight
    before = weight.detach().clone()
    open_convolution(module)
    with torch.no_grad():
        module.filters.weight.mul_(2)
    assert torch.equal(weight, 2 * before)
    module.close({"weight": weight, "bias": module.filters.bias})
    assert module.weight is weight and torch.equal(weight, 2 * before)


def test_a_state_dict_of_floats_is_loaded():
    _, opened = made(nn.Conv2d, {"kernel_size": 3})
    other = nn.Conv2d(6, 12, 3)
    opened.load_state_dict(other.state_dict())
    batch = torch.randn(1, 6, 8, 8)
    torch.testing.assert_close(opened(batch), other(batch), atol=1e-5, rtol=0)


def test_patches_are_what_unfold_gives_with_channels_innermost():
    batch = torch.randn(2, 4, 9, 11)
    found = patches(batch, [(3, 2, 2), (2, 3, 1)])
    expected = nn.functional.unfold(batch, (3, 2), (2, 1), 0, (2, 3))  # [batch, channels * positions, outputs]
    expected = expected.unflatten(1, (4, 6)).permute(0, 3, 2, 1).flatten(2)
    assert torch.equal(found.flatten(1, 2), expected)


@pytest.mark.parametrize("shape", [(2, 5, 9, 9), (2, 6, 9), (6,), (2, 6, 2, 9)])
def test_inputs_that_do_not_fit_are_refused(shape):
    _, opened = made(nn.Conv2d, {"kernel_size": 3})
    with pytest.raises(RuntimeError):
        opened(torch.randn(shape))


def test_no_outputs_come_of_no_batch():
    module, opened = made(nn.Conv2d, {"kernel_size": 3})
    assert opened(torch.randn(0, 6, 9, 9)).shape == module(torch.randn(0, 6, 9, 9)).shape
    assert isinstance(opened, OpenedConvolution)


def test_a_module_made_of_its_class_is_a_plain_one():
    # As PEFT makes its convolutions.
    _, opened = made(nn.Conv2d, {"kernel_size": 3})
    other = type(opened)(6, 4, 3, bias=False)
    assert type(other) is nn.Conv2d and other(torch.randn(1, 6, 5, 5)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(("padding", "stride"), [((2, 1), (1, 3)), (2, 3)])
def test_what_a_model_changes_after_it_made_one_counts(padding, stride):
    module = nn.Conv2d(6, 12, 3, stride=2)
    module.padding, module.stride = padding, stride
    opened = copy.deepcopy(module)
    open_convolution(opened)
    batch = torch.randn(1, 6, 9, 9)
    torch.testing.assert_close(opened(batch), module(batch), atol=1e-5, rtol=0)
