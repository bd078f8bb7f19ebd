"""Tied embeddings: declared or not, honoured by the file or not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

import hf_quant
from hf_quant import HfQuantConfig
from tests.integration.moe import moe_model
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, saved_tensors, tiny_model, token_ids

EMBEDDING = {"bert": "bert.embeddings.word_embeddings", "gpt2": "transformer.wte", "llama": "model.embed_tokens"}
HEAD = {"bert": "cls.predictions.decoder", "gpt2": "lm_head", "llama": "lm_head"}


def rewritten(source, target, change):
    """A copy of a checkpoint whose dict of tensors `change` edits in place."""
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors", {"format": "pt"}
    )
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


def check_against_float(name, source, tmp_path):
    """Loading `source` on the fly, saving and reloading agree with the float model that Transformers makes of it."""
    reference = outputs(auto_class(name).from_pretrained(source).eval())
    for preset, tolerance in (("int8", 0.06), ("int4", 0.4), ("bf16", 0.03)):
        model = auto_class(name).from_pretrained(source, quantization_config=HfQuantConfig(preset)).eval()
        logits = outputs(model)
        assert error(logits, reference) < tolerance
        model.save_pretrained(tmp_path / preset)
        reloaded = auto_class(name).from_pretrained(tmp_path / preset).eval()
        assert torch.equal(outputs(reloaded), logits)
        assert error(outputs(model.dequantize()), reference) < tolerance


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tied_model_stores_one_set_of_codes_and_shares_it(name, load, tmp_path):
    model = load(name, "int8")
    embedding, head = model.get_submodule(EMBEDDING[name]), model.get_submodule(HEAD[name])
    assert embedding.weight is head.weight
    assert embedding.weights["weight"] is head.weights["weight"]
    model.save_pretrained(tmp_path)
    assert not any(key.startswith(f"{HEAD[name]}.weight") for key in saved_tensors(tmp_path))
    reloaded = auto_class(name).from_pretrained(tmp_path)
    assert reloaded.get_submodule(EMBEDDING[name]).weight is reloaded.get_submodule(HEAD[name]).weight


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_its_own_in_a_tied_checkpoint_is_what_float_makes_of_it(name, checkpoints, tmp_path):
    generator = torch.Generator().manual_seed(1)

    def add_head(tensors):
        tensors[f"{HEAD[name]}.weight"] = torch.randn(128, 64, generator=generator) * 0.125

    check_against_float(name, rewritten(checkpoints[name], tmp_path / "source", add_head), tmp_path)


@pytest.mark.parametrize("factor", [2.0, -0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_equal_codes_but_other_scales_is_what_float_makes_of_it(name, factor, checkpoints, tmp_path):
    def add_head(tensors):
        tensors[f"{HEAD[name]}.weight"] = tensors[f"{EMBEDDING[name]}.weight"] * factor

    check_against_float(name, rewritten(checkpoints[name], tmp_path / "source", add_head), tmp_path)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_two_sets_of_codes_stay_two_wherever_they_lie(where, checkpoints, tmp_path):
    def add_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0) * 2

    source = rewritten(checkpoints["llama"], tmp_path / "source", add_head)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=HfQuantConfig("int8")).eval()
    model.save_pretrained(tmp_path / "int8")
    rest = dict.fromkeys(["model.layers", "model.norm", "model.rotary_emb"], "cpu")
    where = {"model.embed_tokens": where, **rest, "lm_head": where}
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "int8", device_map=where, offload_folder=tmp_path / "disk"
    ).eval()
    assert error(outputs(offloaded), outputs(model)) < 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_equal_to_its_embedding_is_what_float_makes_of_it(name, checkpoints, tmp_path):
    def add_head(tensors):
        tensors[f"{HEAD[name]}.weight"] = tensors[f"{EMBEDDING[name]}.weight"].clone()

    check_against_float(name, rewritten(checkpoints[name], tmp_path / "source", add_head), tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_with_the_head_but_not_the_embedding_is_what_float_makes_of_it(name, checkpoints, tmp_path):
    def move(tensors):
        tensors[f"{HEAD[name]}.weight"] = tensors.pop(f"{EMBEDDING[name]}.weight")

    check_against_float(name, rewritten(checkpoints[name], tmp_path / "source", move), tmp_path)


def test_an_untied_checkpoint_keeps_two_sets_of_codes(load, tmp_path):
    model = load("llama-untied", "int8")
    model.save_pretrained(tmp_path)
    tensors = saved_tensors(tmp_path)
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])


def test_untying_in_config_json_is_honoured(checkpoints, tmp_path):
    def add_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)

    source = rewritten(checkpoints["llama"], tmp_path / "source", add_head)
    config = json.loads((source / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (source / "config.json").write_text(json.dumps(config))
    check_against_float("llama", source, tmp_path)


def test_a_head_tied_in_memory_shares_codes_after_quantize():
    model = tiny_model("llama-untied")
    model.lm_head.weight = model.model.embed_tokens.weight
    before = outputs(model)
    hf_quant.quantize(model, "int8", progress=False)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert error(outputs(model), before) < 0.06


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_base_model_of_a_file_with_only_the_head_gets_a_new_embedding(name, checkpoints, tmp_path):
    def move(tensors):
        tensors[f"{HEAD[name]}.weight"] = tensors.pop(f"{EMBEDDING[name]}.weight")

    source = rewritten(checkpoints[name], tmp_path / "source", move)
    model = AutoModel.from_pretrained(source, quantization_config=HfQuantConfig("int8")).eval()
    embedding = model.get_input_embeddings()
    assert type(embedding) is torch.nn.Embedding, "no weight in the file for it: new, float, and reported"
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_a_tie_survives_a_cast_and_a_second_save(preset, load, tmp_path):
    model = load("gpt2", preset).to(torch.bfloat16)
    assert model.lm_head.weight is model.transformer.wte.weight
    logits = outputs(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path).eval()), logits)


LAST, FIRST = "model.layers.1.mlp.experts", "model.layers.0.mlp.experts"


class TiedExperts(MixtralForCausalLM):
    """Its last layer has the experts of its first, and a checkpoint those of the first alone."""

    config_class = MixtralConfig
    _tied_weights_keys = MixtralForCausalLM._tied_weights_keys | {
        f"{LAST}.{name}": f"{FIRST}.{name}" for name in ("gate_up_proj", "down_proj")
    }


@pytest.mark.parametrize("preset", ["int8", "int4", "int8-static"])
def test_tied_experts_share_one_set_of_codes_whichever_way_they_are_quantized(preset, tmp_path):
    model = TiedExperts(moe_model("Mixtral", tie_word_embeddings=True).config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=float(parameter.ndim == 1), std=0.125)
    model.save_pretrained(tmp_path / "float")
    data = hf_quant.Calibration([token_ids(1, 16)[0]] * 8) if preset == "int8-static" else None
    config = HfQuantConfig(preset, calibration=data)
    loaded = TiedExperts.from_pretrained(tmp_path / "float", quantization_config=config).eval()
    expected = outputs(loaded)
    assert error(outputs(hf_quant.quantize(model, config, progress=False)), expected) < 1e-6
    for each in (model, loaded):
        last, first = (each.get_submodule(f"{name}.2.up_proj") for name in (LAST, FIRST))
        assert last.weight is first.weight
    loaded.save_pretrained(tmp_path / preset)
    assert not any(
        name.startswith(f"{LAST}.") and name.endswith(".weight") for name in saved_tensors(tmp_path / preset)
    )
    reloaded = TiedExperts.from_pretrained(tmp_path / preset).eval()
    assert torch.equal(outputs(reloaded), expected)
    restored = reloaded.dequantize()
    assert restored.get_parameter(f"{LAST}.down_proj") is restored.get_parameter(f"{FIRST}.down_proj")
    assert error(outputs(restored), expected) < 0.2
    restored.save_pretrained(tmp_path / "restored")
    assert torch.equal(outputs(TiedExperts.from_pretrained(tmp_path / "restored").eval()), outputs(restored))
