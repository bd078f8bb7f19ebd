"""Pairs: what feeds what is found without names, proved by running, and scaled without a trace in the output."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig, GPTNeoXConfig, OPTConfig, Phi3Config

from hf_quant.calibration.pairs import Pair, apply_scales, find_pairs, structure_of, weight_matrix
from hf_quant.errors import CalibrationError
from tests.calibrated_blocks import blocks_of, capture, first_block, logits
from tests.integration.tiny import CHECKPOINTS, HIDDEN, error, tiny_model

GQA = [*range(16), *range(16), *range(16, 32), *range(16, 32)]


def pairs_of_llama(value):
    return [
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), list(range(64))),
        ("self_attn.v_proj", ("self_attn.o_proj",), value),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), list(range(64))),
        ("mlp.up_proj", ("mlp.down_proj",), list(range(128))),
    ]


EXPECTED = {
    # Its norms feed the residual, too, and its feed-forward has an activation between the linears.
    "bert": [("attention.self.value", ("attention.output.dense",), list(range(64)))],
    "gpt2": [
        ("ln_1", ("attn.c_attn",), list(range(64))),
        ("attn.c_attn", ("attn.c_proj",), list(range(128, 192))),
        ("ln_2", ("mlp.c_fc",), list(range(64))),
    ],
    "llama": pairs_of_llama(list(range(64))),
    "llama-untied": pairs_of_llama(list(range(64))),
    "llama-gqa": pairs_of_llama(GQA),
}


def found_in(block):
    return [(pair.producer, pair.consumers, list(pair.expand)) for pair in block.pairs()]


def random_scales(pair, seed=0):
    return torch.rand(pair.channels, generator=torch.Generator().manual_seed(seed)).mul(4).sub(2).exp2()


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_the_pairs_of_each_family_are_found_in_every_block(family):
    for block in blocks_of(tiny_model(family), family):
        before = state_of(block.module)
        assert found_in(block) == EXPECTED[family]
        assert all(torch.equal(tensor, before[name]) for name, tensor in block.module.state_dict().items())


def runs_of(module):
    """Counts the runs of a block in the list that is returned."""
    runs = []
    module.register_forward_pre_hook(lambda *_: runs.append(None))
    return runs


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_pairs_of_an_equal_block_are_proved_again_but_not_looked_for(family):
    first, second = blocks_of(tiny_model(family), family)[:2]
    assert structure_of(first.module) == structure_of(second.module)
    likely, runs = first.pairs(), runs_of(second.module)
    assert find_pairs(second.module, second.args, second.kwargs, likely) == likely
    assert len(runs) == 2 + 2 * len(likely)


def test_a_block_in_which_a_likely_pair_is_wrong_is_searched():
    block = first_block("llama-gqa")
    right = block.pairs()
    wrong = replace(right[1], expand=tuple(reversed(right[1].expand)))
    assert find_pairs(block.module, block.args, block.kwargs, [right[0], wrong]) == right


def test_blocks_of_other_shapes_or_modules_have_another_structure():
    narrow, wide = (nn.Sequential(nn.Linear(4, width)) for width in (4, 8))
    assert structure_of(narrow) != structure_of(wide)
    assert structure_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) != structure_of(
        nn.Sequential(nn.Linear(4, 4), nn.GELU())
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pairs_do_not_depend_on_the_attention_implementation(attention):
    assert found_in(first_block("llama-gqa", attn_implementation=attention)) == EXPECTED["llama-gqa"]


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_scaling_every_pair_leaves_the_logits(family):
    model = tiny_model(family)
    before = logits(model)
    for block in blocks_of(model, family):
        for pair in block.pairs():
            weight = block.module.get_submodule(pair.consumers[0]).weight.clone()
            apply_scales(block.module, pair, random_scales(pair))
            assert not torch.equal(weight, block.module.get_submodule(pair.consumers[0]).weight)
    assert error(logits(model), before) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_inverse_undoes_and_dtypes_stay(family, dtype):
    block = first_block(family)
    block.module.to(dtype)
    before = state_of(block.module)
    for pair in block.pairs():
        scales = random_scales(pair)
        apply_scales(block.module, pair, scales)
        apply_scales(block.module, pair, scales, inverse=True)
    for name, tensor in block.module.state_dict().items():
        assert tensor.dtype == dtype
        assert error(tensor, before[name]) < 2 * torch.finfo(dtype).eps


def test_producers_are_divided_and_consumers_multiplied():
    block = first_block("gpt2")
    pair = block.pairs()[1]
    before = copy.deepcopy(block.module)
    scales = random_scales(pair)
    apply_scales(block.module, pair, scales)
    attention, was = block.module.attn, before.attn
    used = torch.ones(192)
    used[128:] = scales[128:]
    assert torch.allclose(attention.c_attn.weight, was.c_attn.weight / used)
    assert torch.allclose(attention.c_attn.bias, was.c_attn.bias / used)
    assert torch.allclose(attention.c_proj.weight, was.c_proj.weight * scales[128:, None])
    assert torch.equal(attention.c_proj.bias, was.c_proj.bias)
    assert weight_matrix(attention.c_attn).shape == (192, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blocks_in_16_bits_are_proved_in_float32(dtype):
    block = first_block("llama-gqa")
    block.module.to(dtype)
    assert found_in(block) == EXPECTED["llama-gqa"]
    assert block.module.mlp.up_proj.weight.dtype == dtype


SIZES = {
    "vocab_size": 128,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def block_of(config, name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return capture(model, [name])[name]


def test_a_norm_that_adds_one_to_its_weight_is_scaled_as_such():
    config = GemmaConfig(**SIZES, intermediate_size=128, num_key_value_heads=1, head_dim=16)
    block = block_of(config, "model.layers.0")
    pairs = block.pairs()
    assert [(pair.producer, pair.offset) for pair in pairs] == [
        ("input_layernorm", 1.0),
        ("self_attn.v_proj", 0.0),
        ("post_attention_layernorm", 1.0),
        ("mlp.up_proj", 0.0),
    ]
    before = block.output()
    for pair in pairs:
        apply_scales(block.module, pair, random_scales(pair))
    assert error(block.output(), before) < 1e-5


def test_one_linear_for_all_of_attention_and_one_for_gate_and_up():
    config = Phi3Config(**SIZES, intermediate_size=128, num_key_value_heads=2)
    found = {pair.producer: pair for pair in block_of(config, "model.layers.0").pairs()}
    assert list(found["self_attn.qkv_proj"].expand) == [96 + channel for channel in GQA]
    assert found["mlp.gate_up_proj"].expand == tuple(range(128, 256))


def test_values_that_lie_between_queries_and_keys_head_by_head():
    config = GPTNeoXConfig(**SIZES, intermediate_size=128)
    found = {pair.producer: pair for pair in block_of(config, "gpt_neox.layers.0").pairs()}
    by_head = [48 * head + 32 + channel for head in range(4) for channel in range(16)]
    assert list(found["attention.query_key_value"].expand) == by_head


def test_a_relu_lets_scales_pass():
    config = OPTConfig(**SIZES, word_embed_proj_dim=HIDDEN, ffn_dim=128)
    found = {pair.producer: pair.consumers for pair in block_of(config, "model.decoder.layers.0").pairs()}
    assert found["fc1"] == ("fc2",) and found["self_attn.v_proj"] == ("self_attn.out_proj",)


class Gated(nn.Module):
    """A norm, gate and up on it, down; the gate is closed for some channels whatever comes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        nn.init.normal_(self.norm.bias)
        with torch.no_grad():
            self.gate.weight[:3] = 0.0
            self.gate.bias[:3] = -1.0

    def forward(self, x):
        normal = self.norm(x)
        return x + self.down(self.gate(normal).relu() * self.up(normal))


class Leaky(Gated):
    """The norm's output goes elsewhere, ever so little of it."""

    def forward(self, x):
        normal = self.norm(x)
        return x + self.down(self.gate(normal).relu() * self.up(normal)) + 1e-2 * normal


class Tied(Gated):
    """Gate and up are one parameter."""

    def __init__(self):
        super().__init__()
        self.up.weight = self.gate.weight


class HugeResidual(Leaky):
    """A residual beside which nothing else shows."""

    def forward(self, x):
        return super().forward(x) + 1e5 * x


def names_of(module):
    torch.manual_seed(0)
    return [pair.producer for pair in find_pairs(module().eval(), (torch.randn(2, 9, 16),), {})]


def test_a_channel_whose_gate_is_closed_does_not_hide_the_others():
    # The gate itself is a ReLU's, which positive scales pass.
    assert names_of(Gated) == ["norm", "gate", "up"]


def test_a_norm_that_feeds_anything_else_is_no_producer():
    assert "norm" not in names_of(Leaky) and "up" in names_of(Leaky)


def test_a_residual_that_drowns_the_difference_proves_nothing():
    assert "norm" not in names_of(HugeResidual)


def test_linears_that_share_a_parameter_are_not_scaled():
    assert names_of(Tied) == []


class Noisy(nn.Module):
    """Another output each time."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(16, 16), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.linear(x))


def test_a_block_that_is_not_deterministic_is_refused():
    with pytest.raises(CalibrationError, match=r"call eval\(\)"):
        find_pairs(Noisy(), (torch.randn(2, 9, 16),), {})


def test_a_block_that_gives_nan_is_refused():
    with pytest.raises(CalibrationError, match="gives NaN"):
        find_pairs(Gated(), (torch.full((2, 9, 16), torch.nan),), {})


@pytest.mark.parametrize("value", [0.0, -1.0, torch.nan, torch.inf])
def test_scales_that_are_not_positive_numbers_are_refused(value):
    module, pair = Gated(), Pair("up", ("down",), tuple(range(24)), 24)
    before = state_of(module)
    scales = torch.ones(24)
    scales[5] = value
    with pytest.raises(CalibrationError, match="must be positive"):
        apply_scales(module, pair, scales)
    with pytest.raises(CalibrationError, match="24 channels"):
        apply_scales(module, pair, torch.ones(16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_numbers_of_inputs_that_share_a_channel_are_collected():
    pair = Pair("v", ("o",), (2, 2, 4, 4), 6)
    per_input = torch.tensor([1.0, 3.0, 5.0, 4.0])
    assert pair.collect(per_input, "amax").tolist() == [0, 0, 3, 0, 5, 0]
    assert pair.collect(per_input, "mean").tolist() == [0, 0, 2, 0, 4.5, 0]
    assert pair.spread(torch.arange(6.0)).tolist() == [2, 2, 4, 4]
    assert replace(pair) == pair and hash(pair) == hash(replace(pair))
