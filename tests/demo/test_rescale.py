"""Rescaled models compute the same function from different weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_quant.demo.rescale import rescale_channels

HEADS, KEY_VALUE_HEADS = 6, 2
LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
LINEARS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.fixture
def llama():
    """A two-layer Llama with grouped queries, biases everywhere, and norms that are not all ones."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.uniform_(0.5, 1.5)
    return model


def rescaled(model, **options):
    twin = LlamaForCausalLM(model.config).to(next(model.parameters()).dtype).eval()
    twin.load_state_dict(rescale_channels(model.state_dict(), HEADS, KEY_VALUE_HEADS, **options))
    return twin


@torch.inference_mode()
def logits(model):
    return model(torch.arange(40).view(2, 20)).logits


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 1e-3)])
def test_logits_change_by_rounding_only(llama, dtype, rounding):
    model = llama.to(dtype)
    before = logits(model)
    # The float64 bound leaves no room for an error of method; the float32 one shows what real models see.
    assert before.abs().max() > 1
    torch.testing.assert_close(logits(rescaled(model, spread=4.0)), before, rtol=0, atol=rounding)


def test_every_linear_layer_gets_unequal_column_factors(llama):
    before, after = llama.state_dict(), rescaled(llama).state_dict()
    for linear in LINEARS:
        name = f"model.layers.1.{linear}.weight"
        ratio = after[name] / before[name]
        across_columns = ratio / ratio[:, :1]
        assert across_columns.std() > 0.1, name


def test_weights_leave_a_four_bit_grid(llama):
    def most_values_in_a_group(model):
        groups = model.model.layers[0].mlp.down_proj.weight.detach().reshape(-1, 32)
        return max(len(group.unique()) for group in groups)

    with torch.no_grad():
        for weight in llama.parameters():
            weight.copy_((weight * 4).round().clamp(-8, 7) / 4)
    assert most_values_in_a_group(llama) <= 16
    assert most_values_in_a_group(rescaled(llama)) > 28


def test_factors_stay_within_the_spread(llama):
    before, after = llama.state_dict(), rescaled(llama, spread=2.0).state_dict()
    ratio = after["model.layers.0.input_layernorm.weight"] / before["model.layers.0.input_layernorm.weight"]
    assert 0.499 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.001


def test_the_embedding_and_the_final_norm_are_untouched(llama):
    after = rescale_channels(llama.state_dict(), HEADS, KEY_VALUE_HEADS)
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(after[name], llama.state_dict()[name])


def test_the_given_state_is_not_mutated(llama):
    before = {name: weight.clone() for name, weight in llama.state_dict().items()}
    rescale_channels(llama.state_dict(), HEADS, KEY_VALUE_HEADS)
    assert all(torch.equal(weight, before[name]) for name, weight in llama.state_dict().items())


def test_the_seed_decides_the_factors(llama):
    name = "model.layers.0.mlp.down_proj.weight"
    one, again, other = (rescaled(llama, seed=seed).state_dict()[name] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_spread_below_one_is_refused(llama):
    with pytest.raises(ValueError, match="at least 1"):
        rescale_channels(llama.state_dict(), HEADS, KEY_VALUE_HEADS, spread=0.5)
