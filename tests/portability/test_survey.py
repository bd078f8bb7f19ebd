import pytest
import torch
from transformers import GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.portability.survey import parts_of
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.tiny import outputs, tiny_config, tiny_model

W8 = Scheme(TensorScheme(bits=8))


def surveyed(name, config="w8a16", **options):
    model = hf_quant.quantize(tiny_model(name, **options), config)
    parts, note = parts_of(model)
    assert note == ""
    return model, {part.name: part for part in parts}


def test_query_key_and_value_and_gate_and_up_are_siblings():
    config = HfQuantConfig("w8a16", overrides={"*.k_proj": "w4a16", "*.up_proj": None})
    _, parts = surveyed("llama-untied", config)
    query = parts["model.layers.1.self_attn.q_proj"]
    assert [name.rpartition(".")[2] for name in query.siblings] == ["q_proj", "k_proj", "v_proj"]
    assert [scheme.weight.bits for scheme in query.siblings.values()] == [8, 4, 8]
    gate = parts["model.layers.0.mlp.gate_proj"]
    assert list(gate.siblings.values()) == [gate.scheme, None]
    assert parts["model.layers.0.mlp.down_proj"].siblings == {} == parts["lm_head"].siblings


def test_a_survey_leaves_the_model_as_it_was():
    model = hf_quant.quantize(tiny_model("llama"), "int8")
    before = outputs(model)
    parts_of(model)
    assert torch.equal(outputs(model), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_kinds_owners_and_widths_are_those_of_the_model():
    _, parts = surveyed("llama")
    head = parts["lm_head"]
    assert (head.kind, head.owner, head.made_as) == ("head", "model.embed_tokens", "linear")
    assert (parts["model.embed_tokens"].kind, parts["model.embed_tokens"].owner) == ("embedding", "")
    assert parts["model.layers.0.mlp.down_proj"].width == 128


def test_what_gpt2_is_made_of_is_told():
    _, parts = surveyed("gpt2", model_class=GPT2LMHeadModel)
    assert parts["transformer.h.0.mlp.c_proj"].made_as == "conv1d"
    assert parts["transformer.h.0.mlp.c_proj"].width == 256
    assert parts["transformer.wpe"].made_as == "embedding"


def test_inputs_of_a_classifier_have_two_dimensions():
    from transformers import BertForSequenceClassification

    _, parts = surveyed("bert", model_class=BertForSequenceClassification)
    assert parts["classifier"].dimensions == parts["bert.pooler.dense"].dimensions == 2
    assert parts["bert.encoder.layer.0.output.dense"].dimensions == 3


def test_experts_are_told_from_other_linears():
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    parts, _ = parts_of(hf_quant.quantize(MixtralForCausalLM(config).eval(), "w8a16"))
    kinds = {part.name: part.made_as for part in parts}
    assert kinds["model.layers.0.self_attn.q_proj"] == "linear"
    assert {kind for name, kind in kinds.items() if ".experts." in name} == {"experts"}


def test_a_model_that_reads_unknown_things_is_surveyed_without_siblings():
    model = hf_quant.quantize(tiny_model("llama"), "w8a16")
    model.forward = lambda smells: smells
    parts, note = parts_of(model)
    assert "not known" in note and all(part.siblings == {} and part.dimensions is None for part in parts)
    assert len(parts) == 16


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_floats_of_another_dtype_are_parts_too(name):
    _, parts = surveyed(name, "bf16")
    assert parts and all(part.scheme.weight.format == "bfloat" for part in parts.values())
    assert tiny_config(name).hidden_size in {part.width for part in parts.values()}
