"""Plans by rules: what a machine takes, which widths it needs, what fits, each with its reason."""

from dataclasses import replace

import pytest
import torch

import hf_quant
from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError, UnknownName, UnsupportedModel
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.hardware.profile import Figure
from hf_quant.hardware.profiles import PROFILES, get_profile
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.optimize_for import TARGETS, advise, optimize_for
from tests.integration.tiny import FAMILIES, outputs, tiny_model
from tests.naming import naming


@pytest.mark.parametrize("hardware", list(PROFILES))
def test_every_machine_and_target_has_a_plan_for_every_module_with_a_reason(hardware):
    for name in (*FAMILIES, "llama-untied"):
        model = tiny_model(name)
        modules = list(Inventory.of(model).candidates)
        for target in TARGETS:
            with naming(name, target):
                advice = advise(model, hardware, target)
                assert [choice.module for choice in advice.choices] == modules
                assert all(choice.reason for choice in advice.choices)
                assert {choice.preset for choice in advice.choices} <= {*get_profile(hardware).schemes, "float"}
                assert advice.memory == advice.lines()[-1]


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_is_carried_out_as_priced(name, target, tmp_path):
    advice = advise(tiny_model(name), "raspberry-pi-5", target)
    model = hf_quant.quantize(tiny_model(name), hf_quant.HfQuantConfig(plan=advice.plan), progress=False)
    assert torch.isfinite(outputs(model)).all()
    model.save_pretrained(tmp_path)
    assert directory_bytes(tmp_path) == advice.bytes


def test_targets_differ_as_their_names_say():
    model = tiny_model("llama-untied")
    size = {target: advise(model, "raspberry-pi-5", target).bytes for target in TARGETS}
    assert size["memory"] < size["speed"] <= size["accuracy"]
    name = "model.layers.0.mlp.up_proj"
    plans = {target: optimize_for(model, "raspberry-pi-5", target).modules[name] for target in TARGETS}
    assert plans["speed"] == PRESETS["int8"].linear
    assert plans["memory"].weight.bits == 4
    assert plans["accuracy"] == PRESETS["w8a16"].linear


def test_machines_whose_integers_are_decoded_first_get_16_bits_for_speed():
    plan = optimize_for(tiny_model("llama"), "nvidia-sm80", "speed")
    assert set(plan.modules.values()) == {PRESETS["bf16"].linear}
    assert set(optimize_for(tiny_model("llama"), "apple-m1", "speed").modules.values()) == {PRESETS["fp16"].linear}


def test_scales_are_per_channel_where_groups_are_not_taken():
    advice = advise(tiny_model("llama"), "apple-m2", "memory")
    assert {choice.scheme.weight.granularity for choice in advice.choices} == {"channel"}
    assert {choice.scheme.weight.bits for choice in advice.choices} == {8}
    assert any("saves no time" in choice.reason for choice in advice.choices)


def test_widths_that_kernels_cannot_take_get_the_next_best_and_the_reason_says_which():
    model = tiny_model("llama-untied", intermediate_size=72)
    advice = advise(model, "raspberry-pi-5", "speed")
    narrow = {choice.module: choice for choice in advice.choices if choice.module.endswith("down_proj")}
    assert len(narrow) == 2
    for choice in narrow.values():
        assert choice.scheme is None
        assert "width 72 is no multiple of 32" in choice.reason and "left float" in choice.reason
    others = [choice for choice in advice.choices if choice.module not in narrow]
    assert all(choice.scheme is not None for choice in others)


def test_groups_that_are_too_narrow_for_the_alignment_give_way_to_channels():
    profile = replace(get_profile("raspberry-pi-5"), alignment=64)
    model = tiny_model("llama-untied", hidden_size=192, intermediate_size=320)
    for choice in advise(model, profile, "memory").choices:
        scheme = choice.scheme
        assert scheme is None or scheme.weight.granularity == "channel" or scheme.weight.group_size % 64 == 0
    wide = replace(profile, alignment=128)
    model = tiny_model("llama-untied", hidden_size=128, intermediate_size=192)
    choice = next(c for c in advise(model, wide, "memory").choices if c.module.endswith("down_proj"))
    assert choice.scheme is None and "no multiple of 128" in choice.reason


def test_heads_and_embeddings_keep_eight_bits_and_ties_agree():
    for name in FAMILIES:
        advice = advise(tiny_model(name), "raspberry-pi-4", "memory")
        for choice in advice.choices:
            if "8 bits" in choice.reason:
                assert choice.scheme.weight.bits == 8
    plan = optimize_for(tiny_model("llama"), "raspberry-pi-4", "memory").modules
    assert plan["lm_head"].weight == plan["model.embed_tokens"].weight
    assert plan["lm_head"].weight.bits == 8


def test_a_tied_embedding_goes_with_a_head_that_has_to_stay_float():
    model = tiny_model("llama", hidden_size=40, num_attention_heads=5, num_key_value_heads=5)
    advice = advise(model, "raspberry-pi-5", "speed")
    chosen = {choice.module: choice for choice in advice.choices}
    assert chosen["lm_head"].scheme is None and chosen["model.embed_tokens"].scheme is None
    assert "tied to lm_head" in chosen["model.embed_tokens"].reason


def test_memory_fits_or_the_advice_says_by_how_much_it_does_not():
    model = tiny_model("llama")
    roomy = replace(get_profile("raspberry-pi-5"), memory=Figure(8e9, "published", "8 GB"))
    assert advise(model, roomy).fits is True
    tight = replace(roomy, memory=Figure(1e5, "published", "hardly any"))
    advice = advise(model, tight)
    assert advice.fits is False
    assert f"{(advice.bytes - 8e4) / 1e6:.1f} MB more" in advice.memory
    assert advise(model, "raspberry-pi-5").fits is None


def test_for_accuracy_bits_are_given_up_until_it_fits():
    model = tiny_model("llama-untied")
    profile = get_profile("raspberry-pi-5")
    wide = advise(model, profile, "accuracy").bytes
    tight = replace(profile, memory=Figure(1.2 * wide, "published", "less than 8 bits need"))
    advice = advise(model, tight, "accuracy")
    assert advice.fits is True and advice.bytes < wide
    assert "4" in advice.choices[1].preset


def test_names_that_are_not_known_are_typed_errors_with_the_nearest():
    model = tiny_model("llama")
    with pytest.raises(UnknownName, match="did you mean 'raspberry-pi-5'"):
        optimize_for(model, "raspberry-pi-6")
    with pytest.raises(ConfigError, match="did you mean 'speed'"):
        optimize_for(model, "host", "sped")
    quantized = hf_quant.quantize(model, "int8", progress=False)
    with pytest.raises(UnsupportedModel, match="already"):
        optimize_for(quantized, "host")
