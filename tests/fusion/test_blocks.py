"""A feed-forward block is one native call only if it computes just that: no clamp, factor or step more."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4MLP
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP

import hf_quant
from hf_quant.fusion.fuse import unfuse
from hf_quant.fusion.mixin import Fused
from hf_quant.integration.attention import MARK
from hf_quant.kernels.native import library

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

WIDTH, INNER = 64, 128


class Config(PretrainedConfig):
    model_type = "one-part"


class OnePart(PreTrainedModel):
    """A model that is one block."""

    config_class = Config
    base_model_prefix = "model"

    def __init__(self, part):
        super().__init__(Config())
        self.part = part
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for module in self.modules():
                if not isinstance(module, nn.Linear):
                    continue
                for parameter in module.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        self.post_init()

    def init_weights(self):
        """Weights were drawn above."""

    def forward(self, *args):
        return self.part(*args)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class Plain(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH), act or nn.GELU()

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class ClampedGate(Gated):
    def forward(self, x):
        return self.down(self.act(self.gate(x)).clamp(max=7) * self.up(x).clamp(-7, 7))


class HighClamp(Gated):
    """A limit that only a deep model's outliers reach."""

    def forward(self, x):
        return self.down((self.act(self.gate(x)) * self.up(x)).clamp(-65504, 65504))


class Scaled(Gated):
    """As Falcon-H1 and Granite scale by factors near 1."""

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x)) * 1.01


class UpPlusOne(Gated):
    def forward(self, x):
        return self.down(self.act(self.gate(x)) * (self.up(x) + 1))


class Residual(Gated):
    def forward(self, x):
        return x * 0.01 + self.down(self.act(self.gate(x)) * self.up(x))


class SoftlyCapped(Gated):
    def forward(self, x):
        return 500 * torch.tanh(self.down(self.act(self.gate(x)) * self.up(x)) / 500)


class Normed(Gated):
    """Rows of large numbers are scaled down."""

    def forward(self, x):
        inner = self.act(self.gate(x)) * self.up(x)
        return self.down(inner / inner.abs().amax(-1, keepdim=True).clamp(min=1e4) * 1e4)


class AddsAParameter(Gated):
    """A parameter that is 0 until it is loaded."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return super().forward(x) + self.shift


class AddsABuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(WIDTH))

    def forward(self, x):
        return super().forward(x) * self.factor


class OverTokens(Plain):
    """A token sees a little of the one before it."""

    def forward(self, x):
        return super().forward(x + 0.01 * x.roll(1, dims=-2))


class ClippedGelu(nn.Module):
    def __init__(self, low=-10.0, high=10.0):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return functional.gelu(x).clamp(self.low, self.high)


class HighRelu(nn.Module):
    def forward(self, x):
        return x.clamp(0, 3e4)


class SquareRootRelu(nn.Module):
    def forward(self, x):
        return torch.where(x > 100, 100 + (x - 100).clamp(min=0).sqrt(), x.relu())


class Remembering(nn.Module):
    """An activation whose factor is loaded."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x):
        return functional.gelu(x) * self.factor


class ByRow(nn.Module):
    """Elementwise in one dimension, and not beyond."""

    def forward(self, x):
        return functional.gelu(x) if x.ndim < 2 else functional.gelu(x) * (1 + x.softmax(-1))


class FunctionalDropout(Plain):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.5, self.training)


class Ended(nn.Module):
    """``norm(linear(x) + residual)``, as BERT ends its parts."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.dense, self.norm = nn.Linear(INNER, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, residual):
        return self.norm(self.dense(x) + self.factor * residual)


class MultipliedResidual(Ended):
    factor = 1.003


class LayerScaled(Ended):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, residual):
        return self.norm(self.dense(x) * self.scale + residual)


class ClampedSum(Ended):
    def forward(self, x, residual):
        return self.norm((self.dense(x) + residual).clamp(-1e3, 1e3))


class DoublyNormed(Ended):
    def forward(self, x, residual):
        return self.norm(self.norm(self.dense(x) + residual))


def activated(act):
    made = nn.Sequential()
    made.dense, made.act = nn.Linear(WIDTH, INNER), act
    return made


OPTIONS = SimpleNamespace(
    hidden_size=WIDTH, intermediate_size=INNER, moe_intermediate_size=INNER, hidden_act="silu", mlp_bias=False
)
SAME = {
    "Gated": Gated,
    "Plain": Plain,
    "Ended": Ended,
    "relu": lambda: Plain(nn.ReLU()),
    "llama": lambda: LlamaMLP(OPTIONS),
    "gemma": lambda: Gemma3MLP(SimpleNamespace(**vars(OPTIONS), hidden_activation="gelu_pytorch_tanh")),
    "activated": lambda: activated(nn.GELU()),
}
OTHER = {
    "deepseek-v4": lambda: DeepseekV4MLP(SimpleNamespace(**vars(OPTIONS), swiglu_limit=7.0)),
    "clipped gelu": lambda: Plain(ClippedGelu()),
    "gelu clipped from below": lambda: Plain(ClippedGelu(low=-0.1, high=torch.inf)),
    "high relu": lambda: Plain(HighRelu()),
    "square root": lambda: Plain(SquareRootRelu()),
    "an activation with a buffer": lambda: Plain(Remembering()),
    "an activation of rows": lambda: Plain(ByRow()),
    "clipped gelu of one linear": lambda: activated(ClippedGelu()),
    "an activation of rows of one linear": lambda: activated(ByRow()),
    **{
        each.__name__: each
        for each in (
            *(ClampedGate, HighClamp, Scaled, UpPlusOne, Residual, SoftlyCapped, Normed, AddsAParameter),
            *(AddsABuffer, OverTokens, MultipliedResidual, LayerScaled, ClampedSum, DoublyNormed),
        )
    },
}


def quantized(make, preset="int8"):
    return hf_quant.quantize(OnePart(make()).eval(), preset, progress=False)


def inputs_of(model, scale):
    generator = torch.Generator().manual_seed(2)
    width = next(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    x = scale * (torch.randn(2, 8, width, generator=generator) + 0.5)
    two = isinstance(model.part, Ended)
    return (x, scale * torch.randn(2, 8, WIDTH, generator=generator)) if two else (x,)


@pytest.mark.parametrize("preset", ["int8", "int4", "w4a16"])
@pytest.mark.parametrize("name", SAME)
def test_blocks_that_compute_just_that_are_fused_and_give_the_same(name, preset):
    model = quantized(SAME[name], preset)
    assert isinstance(model.part, Fused)
    for scale in (1e-3, 1.0, 30.0):
        x = inputs_of(model, scale)
        with torch.no_grad():
            found = model(*x)
            unfuse(copied := quantized(SAME[name], preset))
            expected = copied(*x)
        assert ((found - expected).norm() / expected.norm()).item() < (1e-5 if preset == "w4a16" else 1e-2)


@pytest.mark.parametrize("preset", ["int8", "w4a16"])
@pytest.mark.parametrize("name", OTHER)
def test_blocks_that_compute_something_else_somewhere_are_left_alone(name, preset):
    assert not any(isinstance(module, Fused) for module in quantized(OTHER[name], preset).modules())


def test_a_dropout_that_is_no_module_is_active_in_training():
    model = quantized(FunctionalDropout).train()
    x = inputs_of(model, 1.0)
    with torch.no_grad():
        assert not torch.equal(model(*x), model(*x))
        assert torch.equal(model.eval()(*x), model(*x))


class DroppingOut(Plain):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(super().forward(x))


def test_a_dropout_that_was_left_in_training_drops():
    model = quantized(DroppingOut)
    assert isinstance(model.part, Fused)
    model.part.dropout.train()
    x = inputs_of(model, 1.0)
    with torch.no_grad():
        assert not torch.equal(model(*x), model(*x))


def test_an_activation_that_is_exchanged_later_is_used():
    model = quantized(Plain)
    x = inputs_of(model, 1.0)
    with torch.no_grad():
        before = model(*x)
        model.part.act = nn.ReLU()
        assert isinstance(model.part, Fused) and not torch.allclose(model(*x), before, rtol=1e-2)


def test_trying_a_block_leaves_it_as_it_was():
    part = Scaled()
    before = dict(part.__dict__)
    model = hf_quant.quantize(OnePart(part).eval(), "int8", progress=False)
    assert type(model.part) is Scaled and set(part.__dict__) - {MARK} == set(before)
    assert not any(module._forward_hooks for module in model.modules())
