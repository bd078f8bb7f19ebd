"""Which modules are taken for stacked experts: those that compute so, whatever they are called."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from hf_quant.modules.opened import Opened
from hf_quant.opening.experts import layout_of
from hf_quant.opening.open import Opening, close, opened
from tests.integration.moe import FAMILIES, moe_model
from tests.integration.tiny import outputs


class Experts(nn.Module):
    """Stacked experts as somebody might write them."""

    def __init__(self, gate=lambda gate, up: functional.silu(gate) * up, scale=1.0):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 16, 12))
        self.down_proj = nn.Parameter(torch.randn(3, 12, 8))
        self.act_fn = ACT2FN["silu"]
        self.gate, self.scale = gate, scale

    def forward(self, hidden_states, top_k_index, top_k_weights):
        result = torch.zeros_like(hidden_states)
        for token, experts in enumerate(top_k_index.tolist()):
            for place, expert in enumerate(experts):
                if expert < 3:
                    gate, up = functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2)
                    output = functional.linear(self.gate(gate, up), self.down_proj[expert])
                    result[token] += self.scale * output * top_k_weights[token, place]
        return result


def test_experts_of_a_class_that_nobody_knows_are_opened():
    module = nn.ModuleList([Experts()])
    module[0].gate_up_proj = nn.Parameter(torch.randn(3, 16, 12))
    module[0].down_proj = nn.Parameter(torch.randn(3, 12, 8))
    inputs = torch.randn(5, 12), torch.randint(3, (5, 2)), torch.rand(5, 2)
    expected = module[0](*inputs)
    with opened(module):
        assert isinstance(module[0], Opened) and isinstance(module[0], Experts)
        assert torch.allclose(module[0](*inputs), expected, atol=1e-5)
    assert torch.equal(module[0](*inputs), expected) and not isinstance(module[0], Opened)


@pytest.mark.parametrize(
    "other",
    [
        Experts(gate=lambda gate, up: functional.silu(gate).clamp(max=7.0) * up),
        Experts(gate=lambda gate, up: functional.silu(gate) * up.clamp(-50, 50)),
        Experts(gate=lambda gate, up: functional.gelu(gate) * up),
        Experts(gate=lambda gate, up: functional.silu(up) * gate),
        Experts(gate=lambda gate, up: functional.silu(gate) * (up + 1e-2)),
        Experts(scale=1.001),
    ],
)
def test_experts_that_compute_anything_else_are_left_alone(other):
    assert layout_of(other) is None


@pytest.mark.parametrize("shape", [(4, 12, 8), (3, 12, 9), (3, 10, 8)], ids=str)
def test_tensors_whose_shapes_are_not_those_of_the_same_experts_are_left_alone(shape):
    module = Experts()
    module.down_proj = nn.Parameter(torch.randn(shape))
    assert layout_of(module) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_an_opened_model_computes_the_same_and_has_the_same_state(family):
    model = moe_model(family)
    before, expected = model.state_dict(), outputs(model)
    with opened(model) as opening:
        assert opening.modules
        assert torch.allclose(outputs(model), expected, rtol=1e-4, atol=1e-5)
        state = model.state_dict()
        assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
    assert list(model.state_dict()) == list(before) and torch.equal(outputs(model), expected)


def test_what_fails_in_between_leaves_the_model_as_it_was():
    model = moe_model("Mixtral")
    parameters = dict(model.named_parameters())
    with pytest.raises(ZeroDivisionError), opened(model):
        raise ZeroDivisionError
    after = dict(model.named_parameters())
    assert list(after) == list(parameters) and all(after[name] is parameters[name] for name in parameters)


def test_layouts_are_found_on_the_meta_device_in_any_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            module = Experts()
            module.down_proj = nn.Parameter(torch.empty(3, 12, 8))
            assert layout_of(module) is not None
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_kept_stays_open_and_is_closed_with_what_it_holds_by_then():
    model = moe_model("GptOss")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Opening(model).keep(["model.layers.1.mlp.experts.2.up_proj"])
    assert isinstance(model.model.layers[1].mlp.experts, Opened)
    assert not isinstance(model.model.layers[0].mlp.experts, Opened)
    changed = model.get_submodule("model.layers.1.mlp.experts.2.up_proj")
    changed.weight = nn.Parameter(changed.weight.detach() + 1.0)
    close(model)
    expected = state["model.layers.1.mlp.experts.gate_up_proj"]
    expected[2, :, 1::2] += 1.0  # gate and up by turns, [in, out]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
