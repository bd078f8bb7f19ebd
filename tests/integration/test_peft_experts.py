import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import hf_quant
from hf_quant.errors import UnsupportedModel
from hf_quant.integration.lora import LoraOnQuantized
from tests.integration.adapters import codes, same, train
from tests.integration.tiny import error, outputs, saved_tensors
from tests.integration.tiny_experts import FAMILIES, expert_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
]
"""PEFT reads an attribute that Transformers has renamed, and finds no module for patterns that it made for stacks."""


def quantized(name):
    return hf_quant.quantize(expert_model(name), "int8", progress=False)


def adapted(name, **changes):
    given = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes}
    return get_peft_model(quantized(name), LoraConfig(**given))


def layers_of(model):
    return {name for name, module in model.named_modules() if isinstance(module, LoraOnQuantized)}


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_on_all_linears_train_those_of_experts_and_nothing_else(name, tmp_path):
    model = adapted(name)
    experts = [layer for layer in layers_of(model) if ".experts." in layer]
    assert len(experts) == 3 * sum(layer.mlp.experts.experts for layer in model.base_model.model.model.layers)
    before, fresh = codes(model), outputs(model)
    losses = train(model)
    assert losses[-1] < 0.9 * losses[0]
    assert same(before, codes(model))
    trained = outputs(model)
    assert not torch.equal(trained, fresh)
    model.save_pretrained(tmp_path)
    assert any(".experts.0.up_proj.lora_A" in key for key in saved_tensors(tmp_path))
    loaded = PeftModel.from_pretrained(quantized(name), tmp_path)
    assert torch.equal(outputs(loaded), trained)


def test_adapters_of_experts_merge_into_their_codes():
    model = adapted("qwen3-moe")
    train(model)
    trained, before = outputs(model), codes(model)
    with pytest.warns(UserWarning, match="rounds them again"):
        merged = model.merge_and_unload()
    assert not layers_of(merged) and not same(before, codes(merged))
    assert error(outputs(merged), trained) < 0.1


@pytest.mark.parametrize("part", ["gate_proj", "down_proj"])
def test_linears_of_experts_can_be_named(part):
    # PEFT would turn the name into that of a stack, and refuses gates without ups.
    found = layers_of(adapted("qwen3-moe", target_modules=[part]))
    assert len(found) == 16 and all(name.endswith(part) for name in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_stacks_are_no_targets(name):
    for target in ("mlp.experts.gate_up_proj", "down_proj"):
        with pytest.raises(UnsupportedModel, match=r"a stack of experts.*gate_proj, up_proj, down_proj"):
            adapted(name, target_modules=["q_proj"], target_parameters=[target])


def test_names_of_earlier_versions_are_no_targets():
    with pytest.raises(UnsupportedModel, match=r"target_modules names w[123].*gate_proj, up_proj, down_proj"):
        adapted("mixtral", target_modules=["q_proj", "w1", "w2", "w3"])


def test_float_models_keep_adapters_on_stacks():
    quantized("mixtral")  # extends PEFT
    given = LoraConfig(r=4, target_modules=["q_proj", "w1", "w2", "w3"])
    model = get_peft_model(expert_model("mixtral"), given)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any(".experts." in name for name in trained)
    losses = train(model)
    assert losses[-1] < losses[0]
