"""What the user asks to keep float, or to quantize otherwise."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant import HfQuantConfig, Plan, Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError, UnknownName
from hf_quant.modules.base import QuantizedModule
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model

GROUPS = Scheme(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32))
ROWS = Scheme(TensorScheme(bits=8, rotation=64))
HEADS = {"bert": "cls.predictions.decoder", "gpt2": "lm_head", "llama": "lm_head"}


def quantized(model):
    return {name for name, module in model.named_modules() if isinstance(module, QuantizedModule)}


def survives_saving(model, name, directory):
    model.save_pretrained(directory)
    reloaded = auto_class(name).from_pretrained(directory).eval()
    assert quantized(reloaded) == quantized(model)
    assert reloaded.config.quantization_config.kept_float == model.config.quantization_config.kept_float
    return torch.equal(outputs(reloaded), outputs(model))


@pytest.mark.parametrize("end", ["head", "embedding"])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_end_of_a_tie_kept_float_keeps_the_other(name, end, load, float_outputs, tmp_path):
    embedding = next(n for n, m in tiny_model(name).named_modules() if isinstance(m, torch.nn.Embedding))
    skipped, other = (HEADS[name], embedding) if end == "head" else (embedding, HEADS[name])
    model = load(name, HfQuantConfig("int8", modules_to_not_convert=[skipped]))
    assert {skipped, other}.isdisjoint(quantized(model))
    assert quantized(model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    reasons = model.config.quantization_config.kept_float
    assert reasons[skipped] == "listed in modules_to_not_convert"
    assert reasons[other] == f"tied to {skipped}, which stays float"
    assert error(outputs(model), float_outputs[name]) < 0.06
    assert survives_saving(model, name, tmp_path)


@pytest.mark.parametrize("pattern", ["*.mlp", "layer.(", "[lm_head"])
def test_modules_to_not_convert_names_what_to_write_for_what_is_no_regular_expression(pattern):
    with pytest.raises(ConfigError, match=r'for every module with that in its name write "\.\*'):
        HfQuantConfig("int8", modules_to_not_convert=["lm_head", pattern])


def test_modules_to_not_convert_takes_parts_of_names(load, tmp_path):
    model = load("llama", HfQuantConfig("int4", modules_to_not_convert=["down_proj", "model.layers.0"]))
    names = quantized(model)
    assert names
    assert not any("down_proj" in name or "layers.0." in name for name in names)
    assert survives_saving(model, "llama", tmp_path)


def test_everything_kept_float_is_the_float_model(load, float_outputs, tmp_path):
    config = HfQuantConfig("int8", overrides={"*": None})
    model = load("bert", config)
    assert not quantized(model)
    assert torch.equal(outputs(model), float_outputs["bert"])
    assert survives_saving(model, "bert", tmp_path)


def test_overrides_reach_exactly_what_they_name(load, tmp_path):
    overrides = {"*.down_proj": "int8", "re:model\\.layers\\.0\\.mlp\\..*": None, "model.layers.0.mlp.up_proj": GROUPS}
    model = load("llama", HfQuantConfig("int4", overrides=overrides))
    mlp = {name: str(model.get_submodule(f"model.layers.{name}")) for name in ("0.mlp.down_proj", "1.mlp.down_proj")}
    assert "scheme" not in mlp["0.mlp.down_proj"], "the last pattern that matches wins"
    assert "W8A8" in mlp["1.mlp.down_proj"]
    assert model.model.layers[0].mlp.up_proj.spec.scheme == GROUPS, "an exact name wins over patterns"
    assert type(model.model.layers[0].mlp.gate_proj) is torch.nn.Linear
    assert model.model.layers[1].mlp.gate_proj.spec.scheme.weight.bits == 4
    assert survives_saving(model, "llama", tmp_path)


def test_a_plan_quantizes_what_it_matches_and_nothing_else(load, tmp_path):
    model = load("gpt2", HfQuantConfig(plan=Plan({"*.mlp.*": GROUPS})))
    assert quantized(model) == {f"transformer.h.{i}.mlp.{part}" for i in (0, 1) for part in ("c_fc", "c_proj")}
    assert model.config.quantization_config.kept_float["lm_head"] == "no pattern of the plan matches it"
    assert survives_saving(model, "gpt2", tmp_path)


def test_a_scheme_goes_to_linears_and_rows_of_eight_bits_to_the_rest(load, tmp_path):
    model = load("llama", HfQuantConfig(scheme=GROUPS))
    assert model.model.layers[0].self_attn.q_proj.spec.scheme == GROUPS
    assert model.model.embed_tokens.spec.scheme == model.lm_head.spec.scheme == ROWS
    assert survives_saving(model, "llama", tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        HfQuantConfig("int8", overrides={"*.w_proj": "int4"}),
        HfQuantConfig(plan=Plan({"*.w_proj": ROWS})),
        HfQuantConfig(plan=Plan({"model.layers.9.mlp.up_proj": ROWS})),
    ],
    ids=["override", "pattern", "name"],
)
def test_a_pattern_that_matches_nothing_is_refused(config, checkpoints):
    with pytest.raises(PlanError, match="matches no module; nearest"):
        AutoModelForCausalLM.from_pretrained(checkpoints["llama"], quantization_config=config)
    model = tiny_model("llama")
    before = outputs(model)
    with pytest.raises(PlanError, match="matches no module; nearest"):
        hf_quant.quantize(model, config, progress=False)
    assert torch.equal(outputs(model), before)


def test_two_schemes_for_the_ends_of_a_tie_are_refused(load, float_outputs):
    overrides = {"lm_head": Scheme(TensorScheme(bits=4))}
    with pytest.raises(PlanError, match="tied"):
        load("llama", HfQuantConfig("int8", overrides=overrides))
    untied = load("llama-untied", HfQuantConfig("int8", overrides=overrides))
    assert untied.lm_head.spec.scheme.weight.bits == 4
    assert error(outputs(untied), float_outputs["llama-untied"]) < 0.3


def test_a_group_size_that_does_not_divide_a_width_is_refused(load):
    scheme = Scheme(TensorScheme(bits=4, granularity="group", group_size=48))
    with pytest.raises(PlanError, match="group_size=48 does not divide its width 64"):
        load("llama", HfQuantConfig(scheme=scheme))


@pytest.mark.parametrize(
    ("arguments", "error_class"),
    [
        ({"preset": "int9"}, UnknownName),
        ({}, ConfigError),
        ({"preset": "int8", "scheme": ROWS}, ConfigError),
        ({"preset": "int8", "plan": Plan({"*": ROWS})}, ConfigError),
        ({"preset": "int8", "bits": 4}, ConfigError),
        ({"preset": "int8", "overrides": {"*": "int9"}}, UnknownName),
        ({"preset": "int8", "overrides": {"*": 8}}, ConfigError),
    ],
    ids=str,
)
def test_a_config_that_contradicts_itself_is_refused(arguments, error_class):
    with pytest.raises(error_class):
        HfQuantConfig(**arguments)


@pytest.mark.parametrize(
    ("entry", "nearest"),
    [("gate_prj", "gate_proj"), ("model.layers.9", "model.layers"), ("lm_head.weight", "lm_head"), (".*vision.*", "")],
)
def test_an_entry_of_modules_to_not_convert_that_matches_nothing_is_refused(entry, nearest, checkpoints):
    config = HfQuantConfig("int8", modules_to_not_convert=["lm_head", entry])
    with pytest.raises(PlanError, match=f"'{re.escape(entry)}' matches no module; nearest: .*{nearest}"):
        AutoModelForCausalLM.from_pretrained(checkpoints["llama"], quantization_config=config)
    model = tiny_model("llama")
    before = outputs(model)
    with pytest.raises(PlanError, match="matches no module; nearest"):
        hf_quant.quantize(model, config, progress=False)
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("entry", ["model.norm", "input_layernorm", "model.layers.1.mlp.act_fn", "model.rotary_emb"])
def test_modules_that_are_float_anyway_may_be_listed(entry):
    model, expected = tiny_model("llama"), tiny_model("llama")
    hf_quant.quantize(model, HfQuantConfig("int8", modules_to_not_convert=[entry]), progress=False)
    hf_quant.quantize(expected, HfQuantConfig("int8"), progress=False)
    assert quantized(model) == quantized(expected)


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("model.layers.1", "model.layers.1."),  # from the start
        ("layers.1", "model.layers.1."),  # the end of a block's name: what is in it
        ("mlp", ".mlp."),
        ("up_proj", ".up_proj"),
        (r"model\.layers\.\d+\.self_attn", ".self_attn."),
    ],
)
def test_all_that_a_listed_module_holds_stays_float(entry, part):
    model, whole = tiny_model("llama"), tiny_model("llama")
    hf_quant.quantize(model, HfQuantConfig("int8", modules_to_not_convert=[entry]), progress=False)
    hf_quant.quantize(whole, HfQuantConfig("int8"), progress=False)
    left_out = {name for name in quantized(whole) if part in name}
    assert left_out and quantized(model) == quantized(whole) - left_out
    reasons = model.config.quantization_config.kept_float
    assert {reasons[name] for name in left_out} == {"listed in modules_to_not_convert"}


def test_a_model_without_its_base_prefix_takes_names_as_they_are_in_it():
    model = tiny_model("llama").model
    hf_quant.quantize(model, HfQuantConfig("int8", modules_to_not_convert=["layers.0"]), progress=False)
    assert quantized(model) and not any(name.startswith("layers.0.") for name in quantized(model))
    config = HfQuantConfig("int8", modules_to_not_convert=["model.layers.0"])
    with pytest.raises(PlanError, match=r"'model\.layers\.0' matches no module; nearest: .*layers\.0"):
        hf_quant.quantize(tiny_model("llama").model, config, progress=False)
