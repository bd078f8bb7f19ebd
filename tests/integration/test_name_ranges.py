"""Models of very many modules: their plans are short, survive saving, and cost no walk through the model for each."""

import json
from itertools import count

import pytest
import torch
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, ConfigError, PlanError

EXPERTS = "model.layers.{0-3}.mlp.experts.{0-11}"


def made(experts=12):
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=64,
        head_dim=16,
        num_experts=experts,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    return Qwen3MoeForCausalLM(config).eval()


def quantized(how="int8", **options):
    return hf_quant.quantize(made(), HfQuantConfig(how, **options), progress=False)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(12).view(2, 6)).logits


def said(directory):
    return json.loads((directory / "config.json").read_text())["quantization_config"]


def test_a_saved_plan_names_experts_by_ranges_and_loads_the_same(tmp_path):
    model = quantized(overrides={"*.{0-2}.mlp.experts.*.up_proj": "w8a16"})
    model.save_pretrained(tmp_path)
    plan = said(tmp_path)["plan"]
    three = EXPERTS.replace("{0-3}", "{0-2}")
    assert set(plan["ranges"]) == {f"{EXPERTS}.gate_proj", f"{EXPERTS}.down_proj", f"{three}.up_proj"}
    # Twelve of a kind are few.
    assert sum(".experts." in name for name in plan["modules"]) == 12
    again = Qwen3MoeForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.quantization_config == model.config.quantization_config
    assert torch.equal(logits(again), logits(model))


def test_what_stayed_float_is_named_by_ranges(tmp_path):
    model = quantized(overrides={"*.gate_proj": None})
    model.save_pretrained(tmp_path)
    assert said(tmp_path)["kept_float_ranges"] == {f"{EXPERTS}.gate_proj": "the plan keeps it float"}
    again = Qwen3MoeForCausalLM.from_pretrained(tmp_path)
    assert again.config.quantization_config.kept_float == model.config.quantization_config.kept_float


def test_a_plan_that_names_each_module_is_read_as_before(tmp_path):
    model = quantized()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = hf_quant.Plan.from_dict(config["quantization_config"]["plan"])
    plan = config["quantization_config"]["plan"]
    label = plan["ranges"][f"{EXPERTS}.gate_proj"]
    del plan["ranges"]
    plan["modules"] |= {name: label for name in names if ".experts." in name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = Qwen3MoeForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.quantization_config == model.config.quantization_config
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("modules", EXPERTS + ".gate_proj", "holds the pattern"),
        ("ranges", "model.layers.{0-9}.mlp.gate_proj", "does not have"),
        ("ranges", EXPERTS + ".up_proj.{0-999999}", "more names than a model has modules"),
        ("ranges", EXPERTS + ".up_*", "holds the pattern"),
        ("ranges", "model.layers.0.mlp.experts.{0}.gate_proj", "two entries"),
    ],
)
def test_ranges_that_do_not_fit_the_model_are_refused(key, name, message, tmp_path):
    quantized().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    plan = config["quantization_config"]["plan"]
    label = plan["ranges"][f"{EXPERTS}.gate_proj"]
    if key == "modules":
        del plan["ranges"][name]
    plan[key][name] = label
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ConfigError), match=message):
        Qwen3MoeForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model.layers.{0,2}.self_attn", {f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 2) for x in "qkvo"}),
        ("experts.{3-4}.up_proj", {f"model.layers.{i}.mlp.experts.{e}.up_proj" for i in range(4) for e in (3, 4)}),
    ],
)
def test_ranges_keep_modules_float(entry, expected):
    model = quantized(modules_to_not_convert=[entry])
    kept = model.config.quantization_config.kept_float
    assert {name for name, why in kept.items() if why == "listed in modules_to_not_convert"} - expected <= {
        f"model.layers.{i}.self_attn.{norm}_norm" for i in (0, 2) for norm in "qk"
    } | {"model.layers.0.self_attn", "model.layers.2.self_attn"}
    assert expected <= {name for name, why in kept.items() if why == "listed in modules_to_not_convert"}


@pytest.mark.parametrize(
    "options", [{"modules_to_not_convert": ["layers.{7-9}"]}, {"overrides": {"*.layers.{0-9}.mlp.*": "w8a16"}}]
)
def test_ranges_beyond_the_layers_are_refused(options):
    with pytest.raises(PlanError, match=r"matches no module|none with \{4-9\}"):
        quantized(**options)


def test_quantizing_and_saving_do_not_walk_through_the_model_for_each_module(monkeypatch, tmp_path):
    # The walks of one linear of an expert have no children; those of the whole model are few.
    walks = count()
    original = nn.Module.named_modules

    def counted(self, memo=None, prefix="", remove_duplicate=True):
        if isinstance(self, Qwen3MoeForCausalLM) and not prefix:
            next(walks)
        return original(self, memo, prefix, remove_duplicate)

    monkeypatch.setattr(nn.Module, "named_modules", counted)

    def number(experts):
        before = next(walks)
        hf_quant.quantize(made(experts), "int8", progress=False).save_pretrained(tmp_path)
        return next(walks) - before

    assert number(4) == number(12)
