"""Merging adapters into codes: approximate, said so, and never undone."""

import warnings
from dataclasses import replace

import pytest
import torch
from peft import AdaLoraConfig, C3AConfig, PeftModel, ShiraConfig, get_peft_model

from hf_quant.errors import QuantizedWeightError, UnsupportedModel, WeightError
from hf_quant.modules.base import QuantizedModule
from tests.integration.adapters import codes, lora_config, same, train
from tests.integration.tiny import FAMILIES, auto_class, error, outputs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT reads an attribute that Transformers has renamed."""

TOLERANCE = {"int8": 0.05, "int4": 0.4}
"""Preset to the error of rounding weights once more; as rounding them the first time, at the same amplification."""


def trained(load, name, preset, **changes):
    model = get_peft_model(load(name, preset), lora_config(name, **changes))
    train(model)
    return model.eval()


@pytest.mark.parametrize("preset", TOLERANCE)
@pytest.mark.parametrize("name", FAMILIES)
def test_merging_lies_within_a_rounding_of_not_merging_and_warns(name, preset, load, tmp_path):
    model = trained(load, name, preset)
    unmerged, plain = outputs(model), outputs(load(name, preset))
    with pytest.warns(UserWarning, match="rounds them again"):
        merged = model.merge_and_unload()
    assert error(outputs(merged), unmerged) < TOLERANCE[preset]
    assert error(outputs(merged), unmerged) < error(plain, unmerged)
    assert "lora" not in repr(merged).lower()
    assert any(isinstance(module, QuantizedModule) for module in merged.modules())

    merged.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), outputs(merged))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_dequantizing_first_merges_exactly(name, load, tmp_path):
    # The fix that the warning names. Activations are float on both sides, so weights alone are compared.
    model = trained(load, name, "w8a16")
    model.save_pretrained(tmp_path)
    base = load(name, "w8a16").dequantize()
    exact = PeftModel.from_pretrained(base, tmp_path).eval()
    unmerged = outputs(exact)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        merged = exact.merge_and_unload()
    assert error(outputs(merged), unmerged) < 1e-5


def test_the_users_config_stays_what_it_was_and_fits_the_float_model(load, tmp_path):
    config = lora_config("gpt2", fan_in_fan_out=True)  # as its float layers are stored
    torch.manual_seed(0)
    model = get_peft_model(load("gpt2", "w8a16"), config)
    train(model)
    assert config.fan_in_fan_out and model.peft_config["default"].fan_in_fan_out
    torch.manual_seed(0)
    assert torch.equal(outputs(model.eval()), outputs(trained(load, "gpt2", "w8a16")))
    model.save_pretrained(tmp_path)
    PeftModel.from_pretrained(load("gpt2", "w8a16").dequantize(), tmp_path)  # without a warning


@pytest.mark.parametrize("preset", TOLERANCE)
def test_unmerging_is_refused(preset, load):
    model = trained(load, "llama", preset)
    model.unmerge_adapter()  # nothing was merged: nothing to refuse
    with pytest.warns(UserWarning, match="rounds them again"):
        model.merge_adapter()
    merged = outputs(model)
    with pytest.raises(UnsupportedModel, match="cannot be undone"):
        model.unmerge_adapter()
    assert torch.equal(outputs(model), merged)


@pytest.mark.parametrize("name", FAMILIES)
def test_dora_is_refused_on_codes_and_trains_on_the_dequantized_model(name, load):
    model = load(name, "int8")
    before = codes(model)
    with pytest.raises(UnsupportedModel, match="DoRA"):
        get_peft_model(model, lora_config(name, use_dora=True))
    assert same(before, codes(model))
    fan_in_fan_out = name == "gpt2"
    model = load(name, "int8").dequantize()
    losses = train(get_peft_model(model, lora_config(name, use_dora=True, fan_in_fan_out=fan_in_fan_out)))
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_on_a_tied_head_trains_but_does_not_merge(load):
    model = get_peft_model(load("llama", "int8"), lora_config("llama", target_modules=["lm_head"]))
    losses = train(model)
    assert losses[-1] < losses[0]
    before = codes(model)
    with pytest.raises(UnsupportedModel, match="shares its codes"):
        model.merge_and_unload()
    assert same(before, codes(model))


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_initialisations_that_change_the_base_weight_are_refused(method, load):
    model = load("llama", "int4")
    before = codes(model)
    with pytest.raises((TypeError, QuantizedWeightError)):
        get_peft_model(model, lora_config("llama", init_lora_weights=method))
    assert same(before, codes(model))


def test_adapters_on_parameters_are_refused(load):
    model = load("llama", "int8")
    before = codes(model)
    with pytest.raises(UnsupportedModel, match="use target_modules"):
        get_peft_model(model, lora_config("llama", target_modules=[], target_parameters=["q_proj.weight"]))
    assert same(before, codes(model))


@pytest.mark.parametrize("tuner", [AdaLoraConfig(total_step=20, tinit=2, tfinal=5), C3AConfig(block_size=16)], ids=type)
def test_adapters_that_add_to_the_output_in_place_train(tuner, load, tmp_path):
    tuner = replace(tuner, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(load("llama", "int8"), tuner)
    before = codes(model)
    losses = train(model)
    assert losses[-1] < losses[0] and same(before, codes(model))
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(outputs(PeftModel.from_pretrained(load("llama", "int8"), tmp_path).eval()), outputs(model))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_an_adapter_that_adds_to_a_copy_of_the_weight_is_refused_before_it_loses_gradients(load):
    model = get_peft_model(load("llama", "int8"), ShiraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(QuantizedWeightError, match="cannot be trained"):
        train(model)


def test_an_adapter_that_holds_nan_is_refused_before_any_code_changes(load):
    model = trained(load, "llama", "int8")
    for key, parameter in model.named_parameters():
        if "layers.0.self_attn.q_proj.lora_B" in key:
            parameter.data.fill_(float("nan"))
    before = codes(model)
    with pytest.warns(UserWarning, match="rounds them again"), pytest.raises(WeightError, match="NaN"):
        model.merge_and_unload()
    assert same(before, codes(model))


def test_two_adapters_merge_one_after_the_other(load):
    model = trained(load, "llama", "int8")
    model.add_adapter("second", lora_config("llama"))
    model.set_adapter("second")
    train(model)
    model.base_model.set_adapter(["default", "second"])
    model.eval()
    both = outputs(model)
    with pytest.warns(UserWarning, match="rounds them again"):
        merged = model.merge_and_unload()
    assert error(outputs(merged), both) < 2 * TOLERANCE["int8"]


def test_unloading_without_a_merge_gives_the_base_back(load):
    model = trained(load, "gpt2", "int4")
    assert torch.equal(outputs(model.unload().eval()), outputs(load("gpt2", "int4")))
