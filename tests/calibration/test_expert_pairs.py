import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from hf_quant.calibration.pairs import apply_scales, find_pairs
from hf_quant.modules.experts import expert_layers, rerouted
from hf_quant.opening.open import Opening
from tests.calibrated_blocks import capture
from tests.integration.tiny import HIDDEN
from tests.integration.tiny_experts import CONFIGS, FAMILIES, expert_model

NORM = "post_attention_layernorm"


def block_of(name, change=None, **changes):
    """The second block of a model with opened experts, as captured from a run."""
    model = expert_model(name, **changes)
    if change is not None:
        change(model)
    Opening(model)
    return capture(model, ["model.layers.1"])["model.layers.1"]


def pair_of(block, producer=NORM):
    return next((pair for pair in block.pairs() if pair.producer == producer), None)


def scales_of(pair, powers=False):
    drawn = torch.rand(pair.channels, generator=torch.Generator().manual_seed(1)).mul(4).sub(2)
    return (drawn.round() if powers else drawn).exp2()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_norm_feeds_the_router_shared_experts_and_every_expert(name):
    block = block_of(name)
    (layer, experts), *_ = expert_layers(block.module)
    firsts = {f"{layer}.{e}.{part}" for e in range(experts.experts) for part in ("gate_proj", "up_proj")}
    router = {"mlp.router" if name == "gpt-oss" else "mlp.gate"}
    shared = {"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert_gate"}
    assert set(pair_of(block).consumers) == firsts | router | (shared if name == "qwen2-moe" else set())


@pytest.mark.parametrize("name", CONFIGS)
def test_each_expert_has_a_pair_where_its_gate_leaves_the_factor_linear(name):
    block = block_of(name)
    within = {pair.producer: pair.consumers for pair in block.pairs() if ".experts." in pair.producer}
    count = next(expert_layers(block.module))[1].experts
    # (up + 1) * gate is not.
    expected = (
        {} if name == "gpt-oss" else {f"mlp.experts.{e}.up_proj": (f"mlp.experts.{e}.down_proj",) for e in range(count)}
    )
    assert within == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_scaling_all_pairs_changes_nothing_for_any_expert(name):
    block = block_of(name)
    rows = torch.randn(64, HIDDEN, generator=torch.Generator().manual_seed(3))
    count = next(expert_layers(block.module))[1].experts

    def all_of_them(experts, index, weights):
        return torch.arange(count).expand(len(index), -1), torch.rand(
            len(index), count, generator=torch.Generator().manual_seed(4)
        )

    def outputs():
        with torch.no_grad(), rerouted(block.module, all_of_them):
            return block.output(), block.module.mlp(block.module.post_attention_layernorm(rows[None]))

    before = outputs()
    for pair in block.pairs():
        apply_scales(block.module, pair, scales_of(pair))
    for found, expected in zip(outputs(), before, strict=True):
        found, expected = (each[0] if isinstance(each, tuple) else each for each in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_powers_of_two_leave_routers_the_very_same_numbers(dtype):
    block = block_of("qwen3-moe")
    pair, norm, router = pair_of(block), block.module.post_attention_layernorm, block.module.mlp.gate
    block.module.to(dtype)
    rows = torch.randn(256, HIDDEN, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.no_grad():
        before = router(norm(rows))
        apply_scales(block.module, pair, scales_of(pair, powers=True))
        after = router(norm(rows))
    assert all(torch.equal(found, expected) for found, expected in zip(after, before, strict=True))


def test_experts_that_the_run_does_not_reach_are_scaled_with_the_others():
    def starve(model):
        with torch.no_grad():
            for layer in model.model.layers:
                weight = layer.mlp.gate.weight
                weight[1], weight[3], weight[4:] = -weight[0], -weight[2], 0  # two are always above 0

    block = block_of("qwen3-moe", starve)
    seen = set()

    def note(experts, index, weights):
        seen.update(index.unique().tolist())
        return index, weights

    with rerouted(block.module, note):
        block.output()
    unreached = set(range(8)) - seen
    assert unreached == {4, 5, 6, 7}
    names = set(pair_of(block).consumers)
    assert all(f"mlp.experts.{expert}.gate_proj" in names for expert in unreached | seen)


class Clamped(MixtralExperts):
    """The factor is linear until it is large."""

    def _apply_gate(self, gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * up.clamp(-50, 50)

    def forward(self, hidden_states, top_k_index, top_k_weights):
        found = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            weights = (top_k_weights * (top_k_index == expert)).sum(-1, keepdim=True)
            inner = self._apply_gate(hidden_states @ self.gate_up_proj[expert].T)
            found = found + weights * (inner @ self.down_proj[expert].T)
        return found


def test_a_factor_that_is_clamped_where_the_run_did_not_come_is_no_producer():
    def clamp(model):
        for layer in model.model.layers:
            layer.mlp.experts.__class__ = Clamped

    block = block_of("mixtral", clamp)
    assert any(True for _ in expert_layers(block.module))
    assert not [pair for pair in block.pairs() if ".experts." in pair.producer]
    assert pair_of(block) is not None


class Passing(torch.nn.Module):
    """Adds what the norm gives, which nothing makes up for, beside what experts do with it."""

    def __init__(self, mlp):
        super().__init__()
        self.inner = mlp

    def forward(self, hidden):
        return self.inner(hidden) + 0.01 * hidden


def test_a_norm_that_feeds_something_else_is_no_producer():
    def wrap(model):
        for layer in model.model.layers:
            layer.mlp = Passing(layer.mlp)

    assert pair_of(block_of("mixtral", wrap)) is None


def test_likely_pairs_are_proved_for_each_block_anew():
    block = block_of("qwen3-moe")
    found = block.pairs()
    assert find_pairs(block.module, block.args, block.kwargs, found) == found
    with torch.no_grad():
        block.module.mlp.experts.get_submodule("2.up_proj").weight.zero_()
    again = find_pairs(block.module, block.args, block.kwargs, found)
    assert [pair.producer for pair in found if pair not in again] == ["mlp.experts.2.up_proj"]
