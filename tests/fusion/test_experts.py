"""Experts in one native call: the same numbers, and out of the way wherever somebody looks inside."""

import copy

import pytest
import torch
from torch import nn

import hf_quant
from hf_quant.fusion.experts import FusedExperts
from hf_quant.fusion.fuse import unfuse
from hf_quant.kernels.native import library
from hf_quant.modules.experts import OpenedExperts
from tests.integration.moe import moe_model
from tests.integration.tiny import error, outputs

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

NAME = "model.layers.0.mlp.experts"


def quantized(family="Qwen3Moe", preset="int8", **changes):
    return hf_quant.quantize(moe_model(family, **changes), preset, progress=False)


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16", "w4a16"])
@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe", "GptOss", "NemotronH", "LongcatFlash"])
def test_experts_are_fused_and_give_the_same(family, preset):
    model = quantized(family, preset)
    fused = [module for module in model.modules() if isinstance(module, FusedExperts)]
    assert len(fused) == sum(isinstance(module, OpenedExperts) for module in model.modules()) > 0
    found = outputs(model)
    assert all(module.calls is not None for module in fused)
    unfuse(model)
    assert error(found, outputs(model)) < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same(dtype):
    experts = quantized("Qwen3Moe", "w8a16").to(dtype).get_submodule(NAME)
    states, index, weights = torch.randn(9, 64).to(dtype), torch.randint(8, (9, 2)), torch.rand(9, 2).to(dtype)
    found = experts(states, index, weights)
    assert experts.calls is not None and found.dtype == dtype
    assert error(found, OpenedExperts.forward(experts, states, index, weights)) < 0.02


def test_packed_weights_of_all_experts_are_rows_of_one_tensor():
    experts = quantized().get_submodule(NAME)
    outputs_before = experts(torch.ones(2, 64), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    blocks = experts.calls[0].arguments[0]
    for index in range(8):
        linear = experts.get_submodule(f"{index}.gate_proj")
        assert linear.packed[0].data_ptr() == blocks[index].data_ptr()
    # Codes come back from there.
    saved = experts.state_dict()
    again = copy.deepcopy(experts)
    again.load_state_dict(saved)
    assert torch.equal(again(torch.ones(2, 64), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2)), outputs_before)


def test_a_weight_that_was_loaded_anew_is_computed_with():
    model, other = quantized(), quantized(seed=1)
    outputs(model)
    model.load_state_dict(other.state_dict())
    assert torch.equal(outputs(model), outputs(other))


def test_a_linear_that_was_exchanged_is_computed_with():
    model = quantized()
    before = outputs(model)
    expert = model.get_submodule(f"{NAME}.3")
    expert.up_proj = nn.Linear(64, 32, bias=False)
    after = outputs(model)
    assert not torch.equal(before, after)
    unfuse(model)
    assert error(outputs(model), after) < 2e-2


def test_who_waits_for_calls_of_an_expert_hears_of_them():
    model = quantized()
    called = []
    for name, module in model.get_submodule(NAME).named_modules():
        if name.endswith("down_proj"):
            module.register_forward_hook(lambda module, args, output: called.append(args[0].shape[0]))
    outputs(model)
    assert sum(called) == 2 * 32  # 32 tokens, each to two


def test_experts_on_unlike_schemes_are_computed_one_by_one():
    model = moe_model("Qwen3Moe")
    overrides = {f"{NAME}.3.up_proj": "w4a16", f"{NAME}.5.*": None}
    hf_quant.quantize(model, hf_quant.HfQuantConfig("w8a16", overrides=overrides), progress=False)
    assert not isinstance(model.get_submodule(NAME), FusedExperts)
    expected = outputs(model)
    assert error(outputs(model.dequantize()), expected) < 1e-3


def test_gradients_flow_to_what_is_before_the_experts():
    model = quantized("Qwen3Moe", "w8a16")
    states = torch.randn(4, 64, requires_grad=True)
    experts = model.get_submodule(NAME)
    experts(states, torch.tensor([[0, 1]] * 4), torch.ones(4, 2)).sum().backward()
    assert states.grad is not None and states.grad.abs().sum() > 0


def test_the_weights_of_outputs_get_their_gradient():
    # The router is trained, and hidden states need none.
    experts = quantized("Qwen3Moe", "w8a16").get_submodule(NAME)
    weights = torch.ones(4, 2, requires_grad=True)
    experts(torch.randn(4, 64), torch.tensor([[0, 1]] * 4), weights).sum().backward()
    assert weights.grad is not None and weights.grad.abs().sum() > 0


@pytest.mark.parametrize("family", ["Qwen3Moe", "GptOss"])
def test_a_compiled_model_is_one_graph(family):
    model = quantized(family)
    with torch.no_grad():
        expected = outputs(model)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert error(outputs(compiled), expected) < 1e-2


def exchanged(model):
    torch.manual_seed(1)
    model.get_submodule(f"{NAME}.3").up_proj = nn.Linear(64, 32, bias=False)


def hooked(model):
    model.get_submodule(f"{NAME}.3.up_proj").register_forward_hook(lambda module, args, output: output * 5)


@torch.no_grad()
@pytest.mark.parametrize("change", [exchanged, hooked])
def test_a_graph_is_made_of_experts_as_they_are(change):
    expected = quantized(preset="w8a16")
    change(expected)
    model = quantized(preset="w8a16")
    change(model)
    assert error(outputs(torch.compile(model, backend="aot_eager")), outputs(expected)) < 1e-5


@torch.no_grad()
def test_a_graph_follows_a_linear_that_is_exchanged_later():
    expected = quantized(preset="w8a16")
    exchanged(expected)
    model = quantized(preset="w8a16")
    compiled = torch.compile(model, backend="aot_eager")
    assert error(outputs(compiled), outputs(expected)) > 1e-2
    exchanged(model)
    assert error(outputs(compiled), outputs(expected)) < 1e-5
