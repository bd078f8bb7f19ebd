"""The config that is saved says what the modules are, whatever was made of them or of the config since."""

import copy
import json

import pytest
import torch
import transformers as T
from torch import nn

import hf_quant
from hf_quant.config.presets import PRESETS
from hf_quant.errors import SaveError
from hf_quant.integration.described import described
from tests.integration.tampering import CONFIG
from tests.integration.test_encoder_decoders import make
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model, token_ids


def quantized(name="llama", preset="int8"):
    return hf_quant.quantize(tiny_model(name), preset, progress=False)


def said(directory):
    return json.loads((directory / CONFIG).read_text()).get("quantization_config")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "int8-static"])
@pytest.mark.parametrize("name", [*FAMILIES, "llama-untied"])
def test_of_a_model_that_nobody_changed_it_says_what_it_said_before(name, preset, caplog):
    model = quantized(name, preset)
    before = model.config.quantization_config
    with described(model):
        assert model.config.quantization_config is not before
        assert model.config.quantization_config.to_dict() == before.to_dict()
    assert model.config.quantization_config is before and not caplog.records


SOURCES = {
    "of the model in memory": lambda model, path: model.config,
    "copied": lambda model, path: copy.deepcopy(model.config),
    "read from disk": lambda model, path: T.AutoConfig.from_pretrained(path),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_float_model_made_with_the_config_of_a_quantized_one_is_saved_as_floats(name, source, tmp_path, caplog):
    teacher = quantized(name)
    expected = outputs(teacher)
    teacher.save_pretrained(tmp_path / "teacher")
    # The constructor, unlike from_config, does not copy the config.
    student = type(teacher)(SOURCES[source](teacher, tmp_path / "teacher")).eval()
    student.save_pretrained(tmp_path / "student")
    student.save_pretrained(tmp_path / "student")
    assert ["quantization_config is dropped" in record.message for record in caplog.records] == [True]
    assert said(tmp_path / "student") is None and not hasattr(student.config, "quantization_config")
    assert not (tmp_path / "student" / "README.md").exists()
    reloaded = auto_class(name).from_pretrained(tmp_path / "student").eval()
    assert torch.equal(outputs(reloaded), outputs(student))
    teacher.save_pretrained(tmp_path / "again")
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path / "again").eval()), expected)


def test_a_smaller_student_is_saved_by_trainer(tmp_path):
    config = copy.deepcopy(quantized().config)
    config.num_hidden_layers = 1
    student = T.AutoModelForCausalLM.from_config(config).eval()
    arguments = T.TrainingArguments(str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    rows = [{"input_ids": row, "labels": row} for row in token_ids()]
    T.Trainer(student, arguments, train_dataset=rows).train()
    reloaded = T.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1").eval()
    assert torch.equal(outputs(reloaded), outputs(student.eval()))


def test_a_request_in_the_config_of_a_float_model_is_dropped(tmp_path):
    model = tiny_model("llama")
    model.config.quantization_config = hf_quant.HfQuantConfig("int8")
    model.save_pretrained(tmp_path)
    assert said(tmp_path) is None
    assert torch.equal(outputs(T.LlamaForCausalLM.from_pretrained(tmp_path).eval()), outputs(model))


def test_a_config_inside_the_config_is_dropped_as_well(tmp_path):
    part = quantized("bert").config
    config = T.EncoderDecoderConfig.from_encoder_decoder_configs(copy.deepcopy(part), copy.deepcopy(part))
    config.decoder.quantization_config = config.encoder.quantization_config = part.quantization_config
    model = T.EncoderDecoderModel(config).eval()
    model.save_pretrained(tmp_path)
    assert "hf_quant" not in (tmp_path / CONFIG).read_text()
    T.EncoderDecoderModel.from_pretrained(tmp_path)


def as_float(module):
    made = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    made.weight.data = module.dequantized_weight()
    return made.requires_grad_(False)


def test_a_linear_that_was_replaced_by_a_float_one_is_float_when_it_is_loaded(tmp_path, caplog):
    model = quantized()
    attention = model.model.layers[0].self_attn
    attention.o_proj = as_float(attention.o_proj)
    model.save_pretrained(tmp_path)
    assert [record.message for record in caplog.records if "model.layers.0.self_attn.o_proj." in record.message]
    reloaded = T.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert type(reloaded.model.layers[0].self_attn.o_proj) is nn.Linear
    assert "replaced" in reloaded.config.quantization_config.kept_float["model.layers.0.self_attn.o_proj"]
    assert torch.equal(outputs(reloaded), outputs(model))


def test_layers_that_were_deleted_are_not_missed(tmp_path):
    model = quantized()
    model.model.layers = model.model.layers[1:]
    model.model.layers[0].self_attn.layer_idx = 0
    model.config.num_hidden_layers = 1
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(T.LlamaForCausalLM.from_pretrained(tmp_path).eval()), outputs(model))


def test_a_model_whose_modules_were_all_replaced_is_saved_as_floats(tmp_path):
    model = quantized("llama-untied", hf_quant.HfQuantConfig("int8", overrides={"*embed_tokens": None}))
    for name, module in list(model.named_modules()):
        if getattr(module, "weights", None):
            model.set_submodule(name, as_float(module))
    model.save_pretrained(tmp_path)
    assert said(tmp_path) is None
    assert error(outputs(T.LlamaForCausalLM.from_pretrained(tmp_path).eval()), outputs(model)) < 1e-6


def test_a_plan_that_keeps_everything_float_stays_in_the_config(tmp_path, caplog):
    model = quantized("llama", hf_quant.HfQuantConfig("int8", overrides={"*": None}))
    model.save_pretrained(tmp_path)
    assert said(tmp_path)["plan"]["modules"] == {} and not caplog.records
    assert torch.equal(outputs(T.LlamaForCausalLM.from_pretrained(tmp_path).eval()), outputs(model))


@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_base_model_of_a_quantized_model_is_saved_and_loaded_by_itself(name, preset, tmp_path, caplog):
    model = quantized(name, preset)
    base, whole = model.base_model, model.config.quantization_config
    base.save_pretrained(tmp_path)
    assert model.config.quantization_config is whole and not caplog.records
    assert torch.equal(outputs(type(base).from_pretrained(tmp_path).eval()), outputs(base))


def test_a_base_model_without_a_part_that_its_class_makes_is_refused(tmp_path):
    with pytest.raises(SaveError, match=r"pooler\.dense"):
        quantized("bert").bert.save_pretrained(tmp_path)


@torch.no_grad()
def test_an_encoder_whose_table_the_whole_model_owns_is_saved_and_loaded_by_itself(tmp_path):
    encoder = hf_quant.quantize(make("t5"), "int8", progress=False).get_encoder()
    encoder.save_pretrained(tmp_path)
    reloaded = type(encoder).from_pretrained(tmp_path).eval()
    assert torch.equal(reloaded(token_ids()).last_hidden_state, encoder(token_ids()).last_hidden_state)


def test_a_quantized_model_whose_config_lost_its_entry_is_saved_with_one(tmp_path):
    model = quantized()
    del model.config.quantization_config
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(T.LlamaForCausalLM.from_pretrained(tmp_path).eval()), outputs(model))
