"""Embeddings times a constant, positions with an offset, linears in other words: quantized as any other."""

import copy

import pytest
import torch
from peft import get_peft_model

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import UnsupportedModel
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.qat.options import QATOptions
from hf_quant.workflows.qat import convert, prepare
from tests.integration.adapters import codes, lora_config, same, train
from tests.integration.calibration_data import config
from tests.integration.derived_families import MODELS, logits, make, written
from tests.integration.tiny import error, saved_tensors, token_ids

SINES = "computed by the model: Transformers saves no weight of it"
WHOLE = "its class computes something else than an embedding, or reads all of it: WhisperPositionalEmbedding"
LEFT = {
    "marian": dict.fromkeys(["model.encoder.embed_positions", "model.decoder.embed_positions"], SINES),
    "whisper": {"model.decoder.embed_positions": WHOLE},
}
every_family = pytest.mark.parametrize("name", MODELS)
THREE = ["gemma3", "falcon", "opt"]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT reads an attribute that Transformers has renamed."""


def quantized(name, preset="w8a16", **changes):
    return hf_quant.quantize(make(name), preset, progress=False, **changes)


@every_family
def test_all_but_what_is_named_is_quantized_and_near_the_float_model(name):
    model, source = quantized(name), make(name)
    assert error(logits(model), logits(source)) < 0.03
    left = {
        key: reason
        for key, reason in model.config.quantization_config.kept_float.items()
        if not reason.startswith(("normalisation", "holds vectors"))
    }
    assert left == LEFT.get(name, {})
    assert isinstance(model.get_input_embeddings(), QuantizedEmbedding)
    assert isinstance(model.get_input_embeddings(), type(source.get_input_embeddings()))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "w8a16") for name in MODELS), *((name, preset) for name in THREE for preset in ("int4", "bf16"))],
)
def test_in_memory_on_the_fly_and_saved_it_is_the_same_to_the_last_bit(name, preset, tmp_path):
    make(name).save_pretrained(tmp_path / "float")
    model = quantized(name, preset)
    model_class, expected = MODELS[name][0], logits(model)
    on_the_fly = model_class.from_pretrained(tmp_path / "float", quantization_config=HfQuantConfig(preset)).eval()
    assert torch.equal(logits(on_the_fly), expected)
    model.save_pretrained(tmp_path / "one")
    again = model_class.from_pretrained(tmp_path / "one").eval()
    assert torch.equal(logits(again), expected) and torch.equal(written(again), written(model))
    on_the_fly.save_pretrained(tmp_path / "two")
    one, two = saved_tensors(tmp_path / "one"), saved_tensors(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@every_family
def test_dequantized_it_is_what_it_was_and_computes_the_same(name):
    model, source = quantized(name), make(name)
    expected = logits(model)
    model.dequantize()
    assert error(logits(model), expected) < 1e-3
    assert {key: type(each) for key, each in model.named_modules()} == {
        key: type(each) for key, each in source.named_modules()
    }
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in source.named_parameters()]


def test_a_table_that_comes_from_disk_is_multiplied_with_the_same_constant(tmp_path):
    quantized("gemma3").save_pretrained(tmp_path / "saved")
    expected = MODELS["gemma3"][0].from_pretrained(tmp_path / "saved").eval()
    where = {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    where["lm_head"] = "disk"
    model = MODELS["gemma3"][0].from_pretrained(tmp_path / "saved", device_map=where, offload_folder=tmp_path / "disk")
    assert model.model.embed_tokens.weight.is_meta
    for _ in range(2):
        assert error(logits(model), logits(expected)) < 0.01


def test_falcons_linears_are_fused_as_others_are():
    model = quantized("falcon", "int8")
    linears = [each for each in model.transformer.h.modules() if isinstance(each, QuantizedLinear)]
    assert linears and all(type(each).forward is QuantizedLinear.forward for each in linears)
    fused = logits(model)
    unfuse(model)
    attention.restore(model)
    assert error(fused, logits(model)) < 2e-2


def test_lora_learns_on_falcons_linears_while_the_codes_stay():
    base = quantized("falcon", "int8")
    before = codes(base)
    model = get_peft_model(base, lora_config("falcon", target_modules=["query_key_value", "dense"]))
    losses = train(model)
    assert losses[-1] < losses[0] and same(before, codes(model))


def test_gptq_finds_the_inputs_of_falcons_linears():
    expected = logits(make("falcon"))
    nearest = error(logits(quantized("falcon", "w4a16")), expected)
    model = hf_quant.quantize(make("falcon"), config("w4a16", solver="gptq"), progress=False)
    assert error(logits(model), expected) < 0.95 * nearest


@pytest.mark.parametrize("preset", ["w8a16", "bf16"])
@pytest.mark.parametrize("name", THREE)
def test_what_was_evaluated_in_training_is_what_is_converted_and_loaded(name, preset, tmp_path):
    model = prepare(make(name), preset, QATOptions(weights="minmax")).train()
    ids = token_ids(length=12)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    evaluated = logits(model.eval())
    assert error(evaluated, logits(make(name))) > 0.05, "it was trained"
    convert(model)
    model.save_pretrained(tmp_path)
    reloaded = MODELS[name][0].from_pretrained(tmp_path).eval()
    assert torch.equal(logits(reloaded), logits(model))
    unfuse(model)
    attention.restore(model)
    assert torch.equal(logits(model), evaluated)


def test_without_a_step_training_converts_to_what_quantize_gives():
    model = convert(prepare(make("gemma3"), "int4", QATOptions(weights="minmax")))
    assert torch.equal(logits(model), logits(quantized("gemma3", "int4")))


@pytest.mark.parametrize("name", ["gemma3", "opt"])
def test_a_vocabulary_on_codes_is_not_resized_and_a_float_one_is(name):
    model = quantized(name)
    with pytest.raises(UnsupportedModel, match="cannot be resized"):
        model.resize_token_embeddings(200)
    source = make(name)
    source.resize_token_embeddings(200)
    assert hf_quant.quantize(source, "w8a16", progress=False).get_input_embeddings().weight.shape[0] == 200


def test_copies_of_a_model_are_equal():
    model = quantized("gemma3")
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))
