"""The cache of keys and values takes what a real one takes after a forward pass."""

import pytest
import torch
from transformers import BambaConfig, DynamicCache, Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.planner.cost.kv_cache import kv_cache_bytes
from tests.integration.tiny import tiny_model, token_ids

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 8,
}


def mistral():
    return MistralForCausalLM(MistralConfig(**SIZES)).eval()


def gemma2():
    """Windows in every other layer, and heads wider than the hidden size divided by their number."""
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=32)).eval()


@torch.no_grad()
def real_bytes(model, batch, length):
    cache = DynamicCache(config=model.config)
    model(token_ids(batch, length), past_key_values=cache, use_cache=True)
    return sum(tensor.numel() * tensor.itemsize for layer in cache.layers for tensor in (layer.keys, layer.values))


@pytest.mark.parametrize("length", [1, 7, 8, 20])
@pytest.mark.parametrize(
    "build",
    [lambda: tiny_model("gpt2"), lambda: tiny_model("llama"), lambda: tiny_model("llama-gqa"), mistral, gemma2],
    ids=["gpt2", "llama", "llama-gqa", "mistral", "gemma2"],
)
def test_it_is_that_of_a_real_cache(build, length):
    model = build()
    assert kv_cache_bytes(model.config, length, batch=3) == real_bytes(model, 3, length)


def test_grouped_queries_and_half_precision_halve_it():
    config = tiny_model("llama").config
    full = kv_cache_bytes(config, 16)
    assert kv_cache_bytes(tiny_model("llama-gqa").config, 16) == full // 2
    assert kv_cache_bytes(config, 16, dtype=torch.float16) == full // 2


def test_sizes_that_are_none_and_layers_that_keep_something_else_are_refused():
    config = tiny_model("llama").config
    for length, batch in ((0, 1), (4, 0), (True, 1), (2.5, 1)):
        with pytest.raises(ConfigError, match="positive integer"):
            kv_cache_bytes(config, length, batch)
    with pytest.raises(UnsupportedModel, match="bamba"):
        kv_cache_bytes(BambaConfig(num_hidden_layers=2, attn_layer_indices=[1]), 16)
