"""Codes and scales never train; what the Trainer and the model's own accounting say of them."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import hf_quant
from hf_quant.config.presets import PRESETS
from hf_quant.errors import QuantizedWeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from tests.integration.calibration_data import preset_config
from tests.integration.tiny import FAMILIES, auto_class, outputs, tiny_model, token_ids


class Rows(Dataset):
    """Eight rows of token ids that are their own labels."""

    def __init__(self):
        self.ids = token_ids(rows=8)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def arguments(directory, **changes):
    options = {"report_to": [], "use_cpu": True, "max_steps": 2, "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(str(directory), **{**options, **changes})


@pytest.fixture(params=["loaded", "saved", "memory"])
def made(request, load, tmp_path):
    """Makes a quantized model in one of the three ways there are."""

    def make(name, preset):
        if request.param == "memory":
            return hf_quant.quantize(tiny_model(name), preset_config(preset), progress=False)
        model = load(name, preset)
        if request.param == "saved":
            model.save_pretrained(tmp_path / "saved")
            model = auto_class(name).from_pretrained(tmp_path / "saved")
        return model

    return make


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_parameter_of_a_quantized_module_requires_a_gradient(name, preset, made):
    modules = [m for m in made(name, preset).modules() if isinstance(m, QuantizedModule | StoredModule)]
    assert modules
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_integer_is_a_parameter_and_scales_are_no_parameters(name, preset, made):
    for module in made(name, preset).modules():
        if isinstance(module, QuantizedModule):
            assert set(dict(module.named_parameters())) <= {"weight", "bias"}
            assert isinstance(module.weight, nn.Parameter) and module.weight.dtype is torch.float32
            assert module.neutral()["scale"].dtype is module.spec.scale_dtype


def test_asking_codes_for_gradients_is_refused(load):
    with pytest.raises(QuantizedWeightError, match="cannot be trained"):
        load("bert", "int8").requires_grad_(True)


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_backward_pass_reaches_the_float_weights_and_leaves_the_codes(name, preset, load):
    model = load(name, preset)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = token_ids()
    model(input_ids=ids, labels=ids).loss.backward()
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert trainable, "the norms stay trainable, as they are in any model"
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trainable.values())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_of_the_input_is_that_of_the_dequantized_model(name, load, monkeypatch):
    monkeypatch.setenv("HF_QUANT_KERNEL", "aten_dequantize")
    quantized = load(name, "w8a16")
    dequantized = load(name, "w8a16").dequantize()
    embedded = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (quantized, dequantized):
        leaf = embedded.clone().requires_grad_(True)
        model(inputs_embeds=leaf).logits.square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4 * gradients[1].abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_trainer_refuses_a_purely_quantized_model_in_its_own_words(name, load, tmp_path):
    with pytest.raises(ValueError, match="purely quantized"):
        Trainer(load(name, "int8"), arguments(tmp_path), train_dataset=Rows())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dequantized_model_trains_in_the_trainer(name, load, tmp_path):
    model = load(name, "int8").dequantize()
    before = outputs(model)
    Trainer(model, arguments(tmp_path), train_dataset=Rows()).train()
    assert not torch.equal(outputs(model.eval()), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_footprint_and_parameter_count_follow_the_codes(name, load):
    whole = tiny_model(name)
    footprints = {preset: load(name, preset).get_memory_footprint() for preset in ("int8", "int4", "bf16")}
    assert footprints["int4"] < footprints["int8"] < footprints["bf16"] < whole.get_memory_footprint()
    assert footprints["bf16"] < 0.6 * whole.get_memory_footprint()
    model = load(name, "int8")
    assert 0 < model.num_parameters(only_trainable=True) < model.num_parameters() <= whole.num_parameters()
