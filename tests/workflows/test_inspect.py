import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

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
    assert line.split()[:2] == ["transformer.h.{0-1}.attn.c_attn", "2"]
    assert "of float32" in text.splitlines()[-1]


def test_a_float_model_says_that_it_is_not_quantized():
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    report = inspect(BertForMaskedLM(config))
    assert all("not quantized" in row.note for row in report.rows)
    assert not any(row.kernel for row in report.rows)


def test_the_report_is_json_ready(gpt2):
    values = json.loads(json.dumps(inspect(gpt2).to_dict()))
    assert values["bytes"] == sum(row["bytes"] for row in values["rows"])


def table_of(model):
    return {line.split()[0]: line.split()[1:] for line in str(inspect(model)).splitlines()[2:-1]}


def test_layers_with_schemes_of_their_own_are_told_by_their_numbers(gpt2):
    config = hf_quant.HfQuantConfig("int8", overrides={"transformer.h.1.mlp.c_fc": "w8a16"})
    table = table_of(hf_quant.quantize(gpt2, config, progress=False))
    assert table["transformer.h.0.mlp.c_fc"][:2] == ["1", "W8A8"]
    assert table["transformer.h.1.mlp.c_fc"][:2] == ["1", "W8A16"]


def test_experts_are_one_line_for_each_projection():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts, vocab_size=64, head_dim=16, intermediate_size=32))
    table = table_of(hf_quant.quantize(model, "int8", progress=False))
    assert {name: row[0] for name, row in table.items() if ".experts." in name} == {
        f"model.layers.{{0-1}}.mlp.experts.{{0-7}}.{part}": "16" for part in ("gate_proj", "up_proj", "down_proj")
    }


@pytest.mark.parametrize("how", [None, "int8", "head float"])
def test_a_bias_that_two_modules_share_counts_once(how, tmp_path):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = BertForMaskedLM(config)
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    expected = model.num_parameters()
    if how is not None:
        skipped = ["cls.predictions.decoder"] if how == "head float" else None
        hf_quant.quantize(model, hf_quant.HfQuantConfig("int8", modules_to_not_convert=skipped), progress=False)
    report = inspect(model)
    assert report.parameters == expected
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert report.bytes == file.stat().st_size - header
