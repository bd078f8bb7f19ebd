"""Families whose own code asks for the name of the attention implementation, or builds masks of its own by it."""

import functools

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.integration import attention, native_attention
from hf_quant.kernels.native import library
from tests.integration.tiny import VOCABULARY, error, token_ids

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}
_FALCON = {name: size for name, size in _SIZES.items() if name != "intermediate_size"}
_SPARSE = {
    **_SIZES,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "index_topk": 4,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}


def falcon(**options):
    return transformers.FalconConfig(**_FALCON, **options)


CONFIGS = {
    "falcon": lambda: falcon(),
    "falcon-alibi": lambda: falcon(alibi=True),
    "falcon-old-multi-head": lambda: falcon(multi_query=False, parallel_attn=False, bias=True),
    "falcon-new": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-new-alibi": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2, alibi=True),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, sliding_window=6),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, sliding_window=6, query_pre_attn_scalar=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GROUPED, sliding_window=6, query_pre_attn_scalar=16),
    "deepseek-v3.2": lambda: transformers.DeepseekV32Config(**_SPARSE),
    "glm-moe-dsa": lambda: transformers.GlmMoeDsaConfig(**_SPARSE),
    "axk2": lambda: transformers.AXK2Config(**_SPARSE),
    "bart": lambda: transformers.BartConfig(**_BART),
}
"""Name to the config of a tiny model; lengths of windows and numbers of kept keys are below those of the inputs."""

_CHOOSING = {"deepseek-v3.2", "glm-moe-dsa", "axk2"}
"""Those that choose keys and experts: what rounding tips over there says nothing of attention."""

NATIVE = {"mistral", "gemma3", "bart", *_CHOOSING}
"""Those whose attention goes through the interface with arguments that the native op covers."""


def family(name, seed=0):
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.12)
    return model


@torch.no_grad()
def logits(model, ids, mask=None):
    others = {"decoder_input_ids": ids[:, :9]} if model.config.is_encoder_decoder else {}
    found = model(input_ids=ids, attention_mask=mask, **others).logits
    # What padding sees itself is anything.
    return found if mask is None or others else found[mask.bool()]


def padded():
    ids = token_ids(2, 24)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    return ids, mask


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quantized_model_computes_what_the_float_one_does(name):
    model = family(name)
    chosen = model.config._attn_implementation
    inputs = [(token_ids(2, 24), None), padded()]
    expected = [logits(model, *each) for each in inputs]
    overrides = {"*": None, "lm_head": "w8a16"} if name in _CHOOSING else {}
    hf_quant.quantize(model, HfQuantConfig("w8a16", overrides=overrides), progress=False)
    assert attention.uses_native(model) and model.config._attn_implementation == chosen
    for each, reference in zip(inputs, expected, strict=True):
        assert error(logits(model, *each), reference) < 0.03


@pytest.mark.parametrize("name", CONFIGS)
def test_native_attention_changes_nothing(name, monkeypatch):
    made = []
    original = native_attention._attention_op
    monkeypatch.setattr(native_attention, "_attention_op", lambda *a: (made.append(a), original(*a))[1])
    model = hf_quant.quantize(family(name), "w8a16", progress=False)
    assert attention.uses_native(model)
    inputs = [(token_ids(2, 24), None), padded()]
    found = [logits(model, *each) for each in inputs]
    assert bool(made) == (name in NATIVE)
    attention.restore(model)
    for each, output in zip(inputs, found, strict=True):
        assert error(output, logits(model, *each)) < 1e-5


@pytest.fixture(scope="module")
def quantized():
    """Quantized models that are only called, each made once."""
    return functools.cache(lambda name: hf_quant.quantize(family(name), "w8a16", progress=False))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bart"])
def test_no_token_sees_a_later_one(name, quantized):
    model = quantized(name)
    ids = token_ids(2, 24)
    changed = torch.cat([ids[:, :16], token_ids(2, 8, seed=9)], 1)
    found, other = logits(model, ids)[:, :16], logits(model, changed)[:, :16]
    assert error(found, other) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_it_generates_with_a_cache_what_it_does_without(name, quantized):
    model = quantized(name)
    ids, mask = padded()
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(ids, use_cache=True, **options), model.generate(ids, use_cache=False, **options))
