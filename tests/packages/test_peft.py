"""PEFT's adapters on quantized models: each kind learns and is reloaded bit for bit, or is refused with the way out."""

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from hf_quant.errors import HfQuantError
from tests.integration.adapters import codes, same, train
from tests.integration.tiny import error, outputs
from tests.packages.models import PRESETS, quantized, saved_float, slow

pytestmark = slow

LINEARS = {"r": 2, "target_modules": ["q_proj", "down_proj"]}
WORKS = {
    "lora": LoraConfig(**LINEARS),
    "rslora": LoraConfig(use_rslora=True, **LINEARS),
    "lora on head": LoraConfig(r=2, target_modules=["q_proj", "lm_head"]),
    "lora on embedding": LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]),
    "tokens": LoraConfig(trainable_token_indices={"embed_tokens": [5, 6]}, **LINEARS),
    "loha": peft.LoHaConfig(**LINEARS),
    "lokr": peft.LoKrConfig(**LINEARS),
    "adalora": peft.AdaLoraConfig(init_r=4, total_step=20, tinit=2, tfinal=5, target_modules=["q_proj"]),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]),
    "vera": peft.VeraConfig(**LINEARS),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}
REFUSED = {
    "dora": LoraConfig(use_dora=True, **LINEARS),
    "pissa": LoraConfig(init_lora_weights="pissa", **LINEARS),
    "olora": LoraConfig(init_lora_weights="olora", **LINEARS),
    "head as it is": LoraConfig(modules_to_save=["lm_head"], **LINEARS),
    "embedding and head as they are": LoraConfig(modules_to_save=["embed_tokens", "lm_head"], **LINEARS),
    "parameters": LoraConfig(target_parameters=["q_proj.weight"], **{**LINEARS, "target_modules": []}),
}


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return saved_float(tmp_path_factory.mktemp("peft") / "llama-untied", "llama-untied")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return saved_float(tmp_path_factory.mktemp("peft") / "llama")


def trained_and_reloaded(path, preset, config, directory, **options):
    """Trains an adapter; checks that it learned, left the codes, and gives the same bits when it is reloaded."""
    model = get_peft_model(quantized(path, preset, **options), config)
    before = codes(model)
    losses = train(model)
    assert losses[-1] < losses[0] and same(before, codes(model))
    model.eval().save_pretrained(directory)
    reloaded = PeftModel.from_pretrained(quantized(path, preset, **options), directory).eval()
    assert torch.equal(outputs(reloaded), outputs(model))
    return model


@pytest.mark.parametrize("config", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_an_adapter_learns_and_is_reloaded_bit_for_bit(preset, config, untied, tmp_path):
    trained_and_reloaded(untied, preset, config, tmp_path)


@pytest.mark.parametrize("config", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("which", ["tied", "untied"])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_needs_float_weights_is_refused_and_changes_no_code(preset, which, config, request):
    model = quantized(request.getfixturevalue(which), preset)
    before, expected = codes(model), outputs(model)
    with pytest.raises(HfQuantError, match="dequantize"):
        get_peft_model(model, config)
    assert same(before, codes(model)) and error(outputs(model), expected) < 1e-2


@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_of_a_table_that_a_quantizing_head_reads_are_refused(preset, tied):
    model = get_peft_model(quantized(tied, preset), WORKS["tokens"])
    with pytest.raises(HfQuantError, match="modules_to_not_convert"):
        train(model)


@pytest.mark.parametrize("what", ["modules_to_save", "tokens"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_way_out_that_refusals_name_works(preset, what, tied, tmp_path):
    config = WORKS["tokens"] if what == "tokens" else LoraConfig(modules_to_save=["embed_tokens", "lm_head"], **LINEARS)
    trained_and_reloaded(tied, preset, config, tmp_path, kept=["embed_tokens", "lm_head"])


@pytest.mark.parametrize("preset", PRESETS)
def test_adapters_are_mixed_exchanged_and_deleted(preset, untied):
    model = get_peft_model(quantized(untied, preset), WORKS["lora"])
    before = codes(model)
    train(model, steps=3)
    first = outputs(model.eval())
    model.add_adapter("second", WORKS["lora"])
    model.set_adapter("second")
    train(model, steps=3)
    second = outputs(model.eval())
    model.add_weighted_adapter(["default", "second"], [1.0, 0.0], "mixed", combination_type="linear")
    for name, expected in (("mixed", first), ("default", first), ("second", second)):
        model.set_adapter(name)
        assert error(outputs(model), expected) < 1e-2
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(outputs(model), first) and same(before, codes(model))
