"""Attention on the native kernels takes the place of ``sdpa`` in quantized models, and of nothing else."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, StaticCache

from hf_quant import HfQuantConfig
from hf_quant.integration import attention
from hf_quant.kernels.native import library
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, token_ids

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")


@pytest.fixture
def calls(monkeypatch):
    """How often the native op ran."""
    made = []
    original = attention._attention_op
    monkeypatch.setattr(attention, "_attention_op", lambda *a: (made.append(a), original(*a))[1])
    return made


def with_sdpa(model, ids):
    model.config._attn_implementation = "sdpa"
    found = outputs(model, ids)
    model.config._attn_implementation = attention.NAME
    return found


@pytest.mark.parametrize("name", [*FAMILIES, "llama-gqa"])
def test_it_computes_what_sdpa_computes(name, load, calls):
    model = load(name, "w8a16")
    for ids in (token_ids(), token_ids(1, 40), token_ids(3, 1)):
        found = outputs(model, ids)
        assert error(found, with_sdpa(model, ids)) < 1e-5
    assert len(calls) == 3 * model.config.num_hidden_layers


@pytest.mark.parametrize("name", [*FAMILIES, "llama-gqa"])
def test_padding_is_not_seen(name, load, calls):
    model = load(name, "w8a16")
    ids = token_ids(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits
        model.config._attn_implementation = "sdpa"
        expected = model(input_ids=ids, attention_mask=mask).logits
    assert calls and error(found[mask.bool()], expected[mask.bool()]) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_generation_with_dynamic_and_static_caches_agrees(name, load):
    model = load(name, "int8")
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    ids = token_ids(1, 10)
    dynamic = model.generate(ids, **options)
    static = model.generate(ids, past_key_values=StaticCache(config=model.config, max_cache_len=32), **options)
    model.config._attn_implementation = "sdpa"
    assert torch.equal(dynamic, static) and torch.equal(dynamic, model.generate(ids, **options))


@pytest.mark.parametrize(("asked", "used"), [("eager", "eager"), ("sdpa", attention.NAME)])
def test_it_stands_in_for_sdpa_alone(asked, used, checkpoints):
    config = HfQuantConfig("int8")
    model = AutoModelForCausalLM.from_pretrained(
        checkpoints["llama"], quantization_config=config, attn_implementation=asked
    )
    assert model.config._attn_implementation == used


def test_a_float_model_keeps_sdpa(checkpoints, load):
    assert AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).config._attn_implementation == "sdpa"
    assert load("llama", "fp32").config._attn_implementation == "sdpa"


def test_gradients_and_dropout_go_to_sdpa(load, calls):
    model = load("gpt2", "int8")
    embeddings = model.get_input_embeddings()(token_ids()).detach().requires_grad_()
    model(inputs_embeds=embeddings).logits.sum().backward()
    assert not calls and embeddings.grad.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_opens_with_the_usual_attention(name, load, tmp_path):
    load(name, "int8").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert not [key for key in saved if "attn_implementation" in key]
    assert auto_class(name).from_pretrained(tmp_path).config._attn_implementation == attention.NAME
