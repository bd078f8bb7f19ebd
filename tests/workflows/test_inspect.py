import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import hf_quant
from hf_quant.workflows.inspect import inspect


@pytest.fixture
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def test_reported_bytes_are_those_of_the_file(gpt2, tmp_path):
    model = hf_quant.quantize(gpt2, "int4", progress=False)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert inspect(model).bytes == file.stat().st_size - header


def test_parameters_are_counted_as_in_the_float_model(gpt2):
    expected = gpt2.num_parameters()
    assert inspect(gpt2).parameters == expected
    assert inspect(hf_quant.quantize(gpt2, "int8", progress=False)).parameters == expected


def test_every_float_module_has_a_reason(gpt2):
    config = hf_quant.HfQuantConfig("int8", modules_to_not_convert=["transformer.wpe"], overrides={"*.c_fc": None})
    report = inspect(hf_quant.quantize(gpt2, config, progress=False))
    reasons = report.float_modules
    assert reasons["transformer.wpe"] == "listed in modules_to_not_convert"
    assert reasons["transformer.h.0.mlp.c_fc"] == "the plan keeps it float"
    assert "normalisation" in reasons["transformer.ln_f"]
    assert all(row.kernel or row.note for row in report.rows)


def test_a_tied_head_takes_no_bytes_and_says_whose_codes_it_shares(gpt2):
    rows = {row.module: row for row in inspect(hf_quant.quantize(gpt2, "int8", progress=False)).rows}
    assert rows["lm_head"].bytes == 0
    assert rows["lm_head"].note == "shares the codes of transformer.wte"


def test_the_table_puts_repeated_layers_on_one_line(gpt2):
    text = str(inspect(hf_quant.quantize(gpt2, "int8", progress=False)))
    line = next(line for line in text.splitlines() if "attn.c_attn" in line)
    assert line.split()[:2] == ["transformer.h.*.attn.c_attn", "2"]
    assert "of float32" in text.splitlines()[-1]


def test_a_float_model_says_that_it_is_not_quantized():
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    report = inspect(BertForMaskedLM(config))
    assert all("not quantized" in row.note for row in report.rows)
    assert not any(row.kernel for row in report.rows)


def test_the_report_is_json_ready(gpt2):
    values = json.loads(json.dumps(inspect(gpt2).to_dict()))
    assert values["bytes"] == sum(row["bytes"] for row in values["rows"])
