"""A norm is computed natively only if it gives the same numbers, element by element, whatever its weight becomes."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import hf_quant
from hf_quant.fusion.fuse import unfuse
from hf_quant.fusion.mixin import Fused
from hf_quant.fusion.norm import FusedNorm
from hf_quant.kernels.native import library
from tests.integration.test_encoder_decoders import make
from tests.integration.test_encoder_decoders import outputs as logits_of
from tests.integration.tiny import error, tiny_model

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

WIDTH = 1024


def rms(x, epsilon=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)


class Norm(nn.Module):
    """Base of norms that users may have written: a weight, an epsilon and a forward."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6


class MeanSubtracted(Norm):
    def forward(self, x):
        return self.weight * rms(x - x.mean(-1, keepdim=True), self.eps)


class ZeroCentred(Norm):
    def forward(self, x):
        return rms(x, self.eps) * (1 + self.weight)


class Partial(Norm):
    """The root mean square of the first half only, of a row whose halves are alike."""

    def forward(self, x):
        factor = torch.rsqrt(x[..., : x.shape[-1] // 2].pow(2).mean(-1, keepdim=True) + self.eps)
        return x * factor * self.weight


class Half(Norm):
    """Half of the channels pass as they are, which shows only where the factor is not 1."""

    def forward(self, x):
        half = x.shape[-1] // 2
        return torch.cat([rms(x, self.eps)[..., :half], x[..., half:]], -1) * self.weight


class Twice(Norm):
    def forward(self, x):
        return rms(x, self.eps) * self.weight * self.weight


class OutsideTheRoot(Norm):
    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


class AtLeast(Norm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).clamp(min=self.eps)) * self.weight


class OtherEpsilon(Norm):
    def forward(self, x):
        return rms(x, 10 * self.eps) * self.weight


class Clamped(Norm):
    def forward(self, x):
        return rms(x, self.eps).clamp(-8, 8) * self.weight


class ClampedInput(Norm):
    def forward(self, x):
        return rms(x.clamp(-5e4, 5e4), self.eps) * self.weight


class SoftlyCapped(Norm):
    def forward(self, x):
        return 30 * torch.tanh(rms(x, self.eps) * self.weight / 30)


class NearlyOne(Norm):
    """A multiplier that a tolerance of a percent does not see."""

    def forward(self, x):
        return rms(x, self.eps) * self.weight * 1.001


class OverTokens(Norm):
    """In four dimensions it normalises another one."""

    def forward(self, x):
        if x.ndim < 4:
            return rms(x, self.eps) * self.weight
        return rms(x.transpose(1, 2), self.eps).transpose(1, 2) * self.weight / x.shape[1] * x[:, :1].norm()


OTHERS = (Partial, Half, Twice, OutsideTheRoot, AtLeast, OtherEpsilon, Clamped, ClampedInput, SoftlyCapped, NearlyOne)
NORMS = {
    "llama": lambda: LlamaRMSNorm(WIDTH, eps=1e-6),
    "t5": lambda: T5LayerNorm(WIDTH, eps=1e-6),
    "gemma": lambda: Gemma3RMSNorm(WIDTH, eps=1e-6),
    "qwen3-next": lambda: Qwen3NextRMSNorm(WIDTH, eps=1e-6),
    "cohere": lambda: CohereLayerNorm(WIDTH, eps=1e-5),
    "nemotron": lambda: NemotronLayerNorm1P(WIDTH, eps=1e-5),
    "olmo": lambda: OlmoLayerNorm(WIDTH),
    "torch": lambda: nn.RMSNorm(WIDTH, eps=1e-6),
    **{each.__name__: each for each in (MeanSubtracted, ZeroCentred, OverTokens, *OTHERS)},
}
NATIVE = {"llama", "t5", "gemma", "qwen3-next", "cohere", "torch", "MeanSubtracted", "ZeroCentred"}


def in_a_model(norm, weight=None):
    """`norm` after a model that holds it was quantized, and a float twin that was not."""
    if weight is not None:
        set_weight(norm, weight)
    model = tiny_model("llama")
    model.model.extra = norm
    twin = type(norm).__new__(type(norm))
    twin.__dict__.update(norm.__dict__)
    hf_quant.quantize(model, "int8", progress=False)
    return norm, twin


@torch.no_grad()
def set_weight(norm, weight):
    if getattr(norm, "weight", None) is not None:
        norm.weight.copy_(weight)


def trained(seed=0):
    """A weight as trained Gemmas have it: most near 0, a few in the hundreds."""
    weight = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.3
    weight[7], weight[100] = 400.0, 1656.0
    return weight


def activations(shape=(3, 5)):
    """Rows with a mean, of several scales, with outliers."""
    x = torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(5)) + 1.5
    x[..., 3] *= 300
    scales = torch.logspace(-5, 5, x[..., 0].numel()).reshape(*shape, 1)
    return x * scales


def worst(found, expected):
    """Largest difference, relative to the largest number of its row."""
    return ((found - expected).abs() / expected.abs().amax(-1, keepdim=True).clamp(min=1e-30)).max().item()


@pytest.mark.parametrize("weight", ["ones", "trained"])
@pytest.mark.parametrize("name", NORMS)
def test_no_norm_gives_other_numbers_in_a_quantized_model(name, weight):
    norm, twin = in_a_model(NORMS[name](), trained() if weight == "trained" else None)
    with torch.no_grad():
        for shape in ((3, 5), (15,), (2, 3, 4)):
            x = activations(shape)
            assert worst(norm(x), twin(x)) < 1e-5
        # What was proved on loading holds for what is loaded later.
        set_weight(norm, trained(seed=1))
        assert worst(norm(x), twin(x)) < 1e-5


@pytest.mark.parametrize("name", NORMS)
def test_norms_that_a_native_one_equals_are_found_by_what_they_compute(name):
    norm, _ = in_a_model(NORMS[name]())
    assert isinstance(norm, Fused) == (name in NATIVE)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma", "cohere"])
def test_in_half_precision_a_norm_differs_by_rounding_only(name, dtype, most):
    norm, twin = in_a_model(NORMS[name]().to(dtype), trained() / 100)
    assert isinstance(norm, Fused)
    x = activations()[1:2].to(dtype)
    with torch.no_grad():
        found, expected, exact = norm(x).float(), twin(x).float(), twin.float()(x.float())
    assert ((found - expected).abs() <= 2 * most * expected.abs() + 1e-6 * expected.abs().max()).all()
    assert (found - exact).norm() <= 1.01 * (expected - exact).norm()


def test_an_epsilon_that_is_changed_later_is_used():
    norm, twin = in_a_model(NORMS["llama"]())
    norm.variance_epsilon = twin.variance_epsilon = 0.1
    with torch.no_grad():
        x = activations()
        assert worst(norm(x), twin(x)) < 1e-5


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16"])
@pytest.mark.parametrize("name", ["t5", "t5-gated"])
def test_each_norm_of_a_t5_is_what_it_was_but_for_float_rounding(name, preset):
    """Logits may differ by more: codes of the embedding make inputs that lie between two steps of the next linear."""
    model = hf_quant.quantize(make(name), preset, progress=False)
    twin = copy.deepcopy(model)
    unfuse(twin)
    norms = {each: module for each, module in model.named_modules() if isinstance(module, FusedNorm)}
    assert len(norms) == 12
    inputs = {}
    for each, module in norms.items():
        module.register_forward_hook(lambda module, given, output, each=each: inputs.update({each: (given, output)}))
    logits_of(model)
    with torch.no_grad():
        for each, (given, output) in inputs.items():
            assert error(output, twin.get_submodule(each)(*given)) < 2e-7
    if preset == "w8a16":  # no code of an input can flip
        assert error(logits_of(model), logits_of(twin)) < 2e-6
