"""Fused convolutions: the numbers of the parts one after the other, and only where these are what is computed."""

import copy

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

import hf_quant
from hf_quant.fusion.convolution import FusedConvolution, FusedConvolutionBlock
from hf_quant.fusion.fuse import unfuse
from hf_quant.fusion.mixin import Fused
from hf_quant.kernels.native import library

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

PRESETS = ("int8", "w8a16", "int4")


class Block(nn.Module):
    """Convolution, norm and activation, in an order, and something more where it is asked for."""

    def __init__(self, convolution, norm=None, activation=None, order="cna", more=None):
        super().__init__()
        self.convolution, self.order, self.more = convolution, order, more
        if norm is not None:
            self.norm = norm
        if activation is not None:
            self.activation = activation

    def forward(self, input):
        parts = {"c": self.convolution, "n": getattr(self, "norm", None), "a": getattr(self, "activation", None)}
        for letter in self.order:
            input = input if parts[letter] is None else parts[letter](input)
        return input if self.more is None else self.more(input)


class Frozen(nn.Module):
    """A batch norm in other words, whose statistics are buffers."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, input):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return input * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class Model(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, block):
        super().__init__(PreTrainedConfig())
        self.block = block
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input):
        return self.block(input)


def batch_norm(channels, kind=nn.BatchNorm2d):
    norm = kind(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.2, 3.0)
    return norm


def quantized(block, preset="int8"):
    model = hf_quant.quantize(Model(block).eval().requires_grad_(False), preset, progress=False)
    return model, model.block


def kind_of(module):
    return next((base for base in type(module).__mro__ if base in (FusedConvolutionBlock, FusedConvolution)), None)


def both_ways(model, input):
    with torch.no_grad():
        fast = model(input)
        slow = copy.deepcopy(model)
        unfuse(slow)
        assert not any(isinstance(module, Fused) for module in slow.modules())
        return fast, slow(input)


def assert_close(fast, slow):
    assert fast.shape == slow.shape and fast.stride() == slow.stride() and fast.dtype == slow.dtype
    torch.testing.assert_close(fast, slow, atol=1e-4 * float(slow.abs().max()), rtol=0)


GEOMETRIES = [
    (nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), (2, 3, 33, 30)),
    (nn.Conv2d(64, 32, 1), (1, 64, 9, 7)),
    (nn.Conv2d(16, 16, (3, 5), padding="same", dilation=2), (2, 16, 12, 13)),
    (nn.Conv2d(16, 8, 3, padding=2, padding_mode="reflect"), (1, 16, 8, 8)),
    (nn.Conv1d(80, 64, 3, padding=1), (1, 80, 50)),
    (nn.Conv3d(3, 32, (2, 4, 4), stride=(2, 4, 4)), (1, 3, 4, 8, 12)),
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("geometry", range(len(GEOMETRIES)))
def test_a_convolution_is_one_call_with_the_same_numbers(geometry, preset):
    torch.manual_seed(0)
    convolution, shape = GEOMETRIES[geometry]
    model, block = quantized(Block(copy.deepcopy(convolution), more=torch.Tensor.exp), preset)
    assert kind_of(block.convolution) is FusedConvolution and kind_of(block) is None
    input = torch.randn(shape)
    for given in (input, input.movedim(1, -1).contiguous().movedim(-1, 1), input[..., ::2]):
        assert_close(*both_ways(model, given))
    assert_close(*both_ways(block.convolution, input[0]))


ACTIVATIONS = (None, nn.ReLU(), nn.SiLU(), nn.GELU())
FOLLOWING = [(norm, each) for norm in (None, "batch", "frozen") for each in ACTIVATIONS if norm or each]


@pytest.mark.parametrize(("norm", "activation"), FOLLOWING, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_norm_and_activation_are_part_of_the_call(preset, norm, activation):
    torch.manual_seed(0)
    norms = {"batch": batch_norm(32), "frozen": Frozen(32), None: None}
    model, block = quantized(Block(nn.Conv2d(16, 32, 3, padding=1), norms[norm], activation), preset)
    assert kind_of(block) is FusedConvolutionBlock
    called = []
    for input in (torch.randn(2, 16, 9, 9), torch.randn(1, 16, 5, 5).to(memory_format=torch.channels_last)):
        assert_close(*both_ways(model, input))
    hook = block.convolution.register_forward_hook(lambda *_: called.append(1))
    hooked = model(input)
    hook.remove()
    assert called == [1]
    assert_close(model(input), hooked)
    assert called == [1]


@pytest.mark.parametrize(
    ("order", "more"), [("can", None), ("cna", lambda output: output + 1), ("ncna", None), ("cnaa", torch.neg)]
)
def test_what_computes_anything_else_is_left_alone(order, more):
    torch.manual_seed(0)
    model, block = quantized(Block(nn.Conv2d(16, 16, 1), batch_norm(16), nn.SiLU(), order, more))
    assert kind_of(block) is None and kind_of(block.convolution) is FusedConvolution
    assert_close(*both_ways(model, torch.randn(2, 16, 4, 4)))


def test_a_norm_that_learns_is_not_passed_over():
    torch.manual_seed(0)
    model, block = quantized(Block(nn.Conv2d(16, 32, 3), batch_norm(32), nn.ReLU()))
    input, before = torch.randn(4, 16, 9, 9), block.norm.running_mean.clone()
    first = model(input)
    model.train()(input)
    assert not torch.equal(block.norm.running_mean, before)
    assert_close(*both_ways(model.eval(), input))
    assert not torch.allclose(model(input), first)
    block.norm.weight.requires_grad_(True)
    model(input).sum().backward()
    assert block.norm.weight.grad.abs().sum() > 0


def test_a_part_that_was_exchanged_is_called():
    torch.manual_seed(0)
    model, block = quantized(Block(nn.Conv2d(16, 32, 3), batch_norm(32), nn.ReLU()))
    block.activation = nn.Tanh()
    input = torch.randn(1, 16, 5, 5)
    assert_close(*both_ways(model, input))
    assert model(input).abs().max() <= 1


@pytest.mark.parametrize("shape", [(1, 15, 9, 9), (1, 16, 9), (1, 16, 2, 9)])
def test_inputs_that_do_not_fit_are_refused(shape):
    model, _ = quantized(Block(nn.Conv2d(16, 32, 3), batch_norm(32), nn.ReLU()))
    with pytest.raises(RuntimeError):
        model(torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_alike(dtype):
    torch.manual_seed(0)
    model = Model(Block(nn.Conv2d(16, 32, 3, padding=1), batch_norm(32), nn.ReLU())).eval().to(dtype)
    hf_quant.quantize(model.requires_grad_(False), "int8", progress=False)
    assert kind_of(model.block) is FusedConvolutionBlock
    fast, slow = both_ways(model, torch.randn(2, 16, 6, 6).to(dtype))
    torch.testing.assert_close(fast, slow, atol=2e-2 * float(slow.abs().max()), rtol=0)


def test_it_is_compiled_and_exported():
    torch.manual_seed(0)
    model, _ = quantized(Block(nn.Conv2d(16, 32, 3, padding=1), batch_norm(32), nn.ReLU()))
    input = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        expected = model(input)
        assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(input), expected)
        assert_close(torch.export.export(model, (input,)).module()(input), expected)


def test_a_part_that_was_left_in_training_is_not_passed_over():
    torch.manual_seed(0)
    model, block = quantized(Block(nn.Conv2d(16, 32, 3), batch_norm(32), nn.ReLU()))
    block.norm.train()  # of the batch, not of what was seen
    input = torch.randn(4, 16, 5, 5)
    with torch.no_grad():
        expected = nn.functional.relu(copy.deepcopy(block.norm)(block.convolution(input)))
        torch.testing.assert_close(model(input), expected)


def scale(norm):
    norm.weight.data.mul_(1.5)
    norm.running_mean.data.add_(0.5)


def widen(convolution):
    convolution.dilation, convolution.padding = (2, 2), 2


CHANGES = {
    "numbers of the norm behind the back of autograd": lambda block: scale(block.norm),
    "its epsilon": lambda block: setattr(block.norm, "eps", 1.0),
    "statistics that are no more": lambda block: block.norm._buffers.update(running_mean=None, running_var=None),
    "dilation and padding": lambda block: widen(block.convolution),
    "the stride, as one number": lambda block: setattr(block.convolution, "stride", 2),
    "the kind of padding": lambda block: setattr(block.convolution, "padding_mode", "circular"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_changed_after_it_was_fused_counts(change):
    torch.manual_seed(0)
    source = Block(nn.Conv2d(16, 32, 3, padding=1), batch_norm(32), nn.ReLU())
    model, block = quantized(copy.deepcopy(source), "w8a16")
    input = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        before = model(input)
        change(block)
        change(source.eval())
        found, expected = model(input), source(input)
    assert found.shape != before.shape or not torch.allclose(found, before, atol=1e-2)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 0.02
