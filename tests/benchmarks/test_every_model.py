import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_quant
from benchmarks.every_model import every_type
from benchmarks.model_classes import model_classes_of, parents_of
from benchmarks.model_results import reason, table
from benchmarks.model_trial import NOT_BUILT, REFUSED, RIGHT, STEP, WRONG, same_tensors, trial
from benchmarks.small_configs import small_config
from tests.integration.tiny import tiny_model, token_ids


def test_configs_are_cut_to_two_layers_and_64_wide():
    config = small_config("llama")
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (2, 64, 256)
    assert config.hidden_size % config.num_attention_heads == 0


def test_a_layer_of_each_kind_is_left():
    assert small_config("gemma3_text").layer_types == ["sliding_attention", "full_attention"]


def test_configs_inside_are_cut_as_well():
    config = small_config("llava")
    assert config.vision_config.num_hidden_layers == config.text_config.num_hidden_layers == 2
    assert config.image_token_index < config.text_config.vocab_size


def test_every_type_of_transformers_is_tried_once():
    types = every_type()
    assert len(types) == len(set(types)) > 300
    assert types[0] == "llama"


def test_widths_that_have_to_agree_are_shares_of_what_they_are():
    whole, fourth = (small_config("swin", level) for level in ("few layers", "a fourth"))
    assert fourth.embed_dim == whole.embed_dim // 4
    assert fourth.depths == [1] * len(whole.depths)


def test_configs_are_made_as_wide_as_asked():
    config = small_config("llama", hidden=96)
    assert (config.hidden_size, config.head_dim, config.intermediate_size) == (96, 24, 192)


def test_parts_of_models_have_a_class_and_a_parent():
    assert model_classes_of("siglip_text_model")[0].__name__ == "SiglipTextModel"
    assert parents_of("siglip_text_model") == ["siglip"]
    assert model_classes_of("layoutxlm") == []


@pytest.mark.parametrize("name", ["qwen3_vl_vision", "bros", "patchtst", "align_text_model"])
def test_inputs_are_found_by_what_errors_ask_for(name):
    assert [each["class"] for each in trial(name, ["w4a16"], 60)] == [RIGHT]


def test_other_widths_and_seeds_are_right_and_said():
    (found,) = trial("bert", ["int8"], 60, hidden=96, seed=3)
    assert (found["class"], found["hidden"], found["seed"]) == (RIGHT, 96, 3)


def test_what_data_sets_is_tried_with_the_inputs_of_the_model():
    assert [each["class"] for each in trial("vit", ["int8-static"], 60)] == [RIGHT]


def test_reasons_for_what_is_not_built_are_told_apart():
    assert reason("ImportError: TimmBackbone requires the timm library") == "a package is missing"
    assert reason("no inputs: TypeError: forward() missing") == "no inputs found"
    assert reason("KeyError: 'full_attention'") == "no small config makes a model"


def test_a_model_that_is_right_passes_all_stages():
    found = {each["preset"]: each for each in trial("llama", ["int8", "w4a16"], 60)}
    assert {each["class"] for each in found.values()} == {RIGHT}
    assert found["w4a16"]["float_error"] < 1e-3
    assert found["int8"]["generated"] == 20


def test_weights_that_stand_for_something_else_are_found(monkeypatch):
    real = hf_quant.quantize

    def quantize(model, *args, **kwargs):
        made = real(model, *args, **kwargs)
        module = made.bert.encoder.layer[0].output.dense
        module.prepare()
        module.__dict__["packed"] = tuple(tensor.clone().zero_() for tensor in module.packed)
        return made

    monkeypatch.setattr(hf_quant, "quantize", quantize)
    (found,) = trial("bert", ["w4a16"], 60)
    assert (found["class"], found["stage"]) == (WRONG, "on the fly")


@pytest.mark.parametrize(("factor", "same"), [(1 + 1e-6, True), (1.01, False)])
def test_grids_that_data_sets_may_differ_by_rounding_and_no_more(factor, same):
    data = hf_quant.Calibration([token_ids(1, 16)[0]] * 4)
    config = hf_quant.HfQuantConfig("int8-static", calibration=data)
    one, other = (hf_quant.quantize(tiny_model("bert"), config, progress=False) for _ in range(2))
    assert same_tensors(one, other)
    other.bert.encoder.layer[0].output.dense.input_scale.mul_(factor)
    assert not same_tensors(one, other)
    assert same_tensors(one, other, STEP) == same


def test_what_is_refused_and_what_cannot_be_built_are_told_apart():
    (found,) = trial("bert", ["int9"], 60)
    assert found["class"] == REFUSED
    assert found["error"].startswith("UnknownName")
    (found,) = trial("layoutxlm", ["int8"], 60)
    assert found["class"] == NOT_BUILT


def test_weights_that_stay_float_unasked_are_told_of_what_is_right():
    (found,) = trial("bert", ["int8"], 60)
    assert found["class"] == "right" and found["left_float"] == "" and "but bert" not in table([found])
    found["left_float"] = "20.0% of the weights stay float though nobody asked for it"
    assert "but bert" in table([found]) and found["left_float"] in table([found])


@pytest.mark.slow
def test_a_record_is_gone_on_from(tmp_path):
    record = tmp_path / "record.json"
    earlier = {"type": "bert", "preset": "int8", "class": "wrong", "stage": "check"}
    record.write_text(json.dumps([earlier]), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.every_model", "--json", str(record), "--presets", "int8", "--types"]
    root = Path(__file__).parents[2]
    subprocess.run([*command, "bert", "llama"], cwd=root, check=True, capture_output=True)
    results = json.loads(record.read_text(encoding="utf-8"))
    assert [(each["type"], each["class"]) for each in results] == [("bert", "wrong"), ("llama", "right")]
    assert "wrong 1" in table(results)
