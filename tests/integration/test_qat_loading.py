"""Models loaded to be trained: from float checkpoints, and from quantized ones whose codes and grids they keep."""

import pytest
import torch
from transformers import Trainer

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.workflows.qat import prepare
from hf_quant.workflows.qat_callback import QATCallback
from tests.integration.calibration_data import calibration, preset_config
from tests.integration.qat_training import Rows, arguments, same, state
from tests.integration.tiny import FAMILIES, auto_class, outputs, tiny_model

beside = pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")


def load(name, path, preset="int4"):
    config = HfQuantConfig(preset, qat=True)
    return auto_class(name).from_pretrained(path, quantization_config=config, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_float_checkpoint_becomes_what_preparing_its_model_gives(name, checkpoints):
    model = load(name, checkpoints[name])
    expected = prepare(auto_class(name).from_pretrained(checkpoints[name]), "int4")
    assert not getattr(model, "is_quantized", False) and not hasattr(model.config, "quantization_config")
    assert same(state(model), state(expected))
    assert torch.equal(outputs(model), outputs(expected.eval()))


@beside
@pytest.mark.parametrize("preset", ["int4", "int8", "int8-static"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_quantized_checkpoint_goes_on_from_its_codes_and_grids(name, preset, tmp_path):
    quantized = hf_quant.quantize(tiny_model(name), preset_config(preset), progress=False)
    quantized.save_pretrained(tmp_path)
    unfuse(quantized)
    attention.restore(quantized)
    expected, stored = outputs(quantized), state(quantized)
    model = load(name, tmp_path, preset)
    assert any(True for _ in fake_quantized_modules(model))
    assert torch.equal(outputs(model), expected)
    hf_quant.convert(model)
    assert same(state(model), stored)
    assert model.config.quantization_config.preset == preset


@beside
def test_grids_of_gptq_are_kept(tmp_path):
    config = HfQuantConfig("w4a16", recipe={"solver": "gptq"}, calibration=calibration())
    hf_quant.quantize(tiny_model("llama"), config, progress=False).save_pretrained(tmp_path)
    scales = {
        name: m.neutral()["scale"] for name, m in quantized_modules(auto_class("llama").from_pretrained(tmp_path))
    }
    config = HfQuantConfig(qat=True)  # the checkpoint says the rest
    model = auto_class("llama").from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)
    Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=[QATCallback(freeze_scales_at=0)]).train()
    assert model.config.quantization_config.recipe is not None
    for name, module in quantized_modules(model):
        assert torch.equal(module.neutral()["scale"], scales[name])


@beside
def test_static_grids_that_are_known_are_not_observed_again(tmp_path):
    hf_quant.quantize(tiny_model("bert"), preset_config("int8-static"), progress=False).save_pretrained(tmp_path)
    model = load("bert", tmp_path, "int8-static")
    scales = {name: p.clone() for name, p in model.named_parameters() if name.endswith("input_quantizer.grid.scale")}
    callback = QATCallback(freeze_scales_at=0, observer_steps=2, convert=False)
    Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=[callback]).train()
    assert scales and all(torch.equal(model.get_parameter(name), scale) for name, scale in scales.items())


@beside
def test_static_grids_that_are_known_need_no_steps_to_observe(tmp_path):
    hf_quant.quantize(tiny_model("bert"), preset_config("int8-static"), progress=False).save_pretrained(tmp_path)
    for callbacks in ([], [QATCallback(observer_steps=0)]):
        model = load("bert", tmp_path, "int8-static")
        run = Trainer(model, arguments(tmp_path, max_steps=1), train_dataset=Rows(), callbacks=callbacks).train()
        assert run.training_loss == run.training_loss


def test_static_grids_that_nothing_observes_are_refused_before_training(checkpoints, tmp_path):
    model = load("bert", checkpoints["bert"], "int8-static")
    before = state(model)
    with pytest.raises(ConfigError, match=r"callbacks=\[hf_quant\.QATCallback\(\)\]"):
        Trainer(model, arguments(tmp_path), train_dataset=Rows()).train()
    with pytest.raises(ConfigError, match="observer_steps of at least 1"):
        Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=[QATCallback(observer_steps=0)])
    assert same(before, state(model))
    Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=[QATCallback(observer_steps=1)]).train()
    assert model.is_quantized


@pytest.mark.parametrize("callbacks", [[], [QATCallback(warmup_steps=2)]], ids=["plain", "callback"])
def test_the_trainer_takes_a_model_that_was_loaded_to_be_trained(callbacks, checkpoints, tmp_path):
    model = load("gpt2", checkpoints["gpt2"])
    before = outputs(model)
    Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=callbacks).train()
    assert bool(callbacks) is bool(getattr(model, "is_quantized", False))
    if not callbacks:
        hf_quant.convert(model)
    assert not torch.equal(outputs(model.eval()), before)


def test_what_makes_no_sense_is_refused(checkpoints, tmp_path):
    with pytest.raises(ConfigError, match="qat is True or False"):
        HfQuantConfig("int4", qat=1)
    with pytest.raises(ConfigError, match="this model is float"):
        auto_class("bert").from_pretrained(checkpoints["bert"], quantization_config=HfQuantConfig(qat=True))
    with pytest.raises(ConfigError, match="this model is float"):
        hf_quant.quantize(tiny_model("bert"), HfQuantConfig(qat=True))
    with pytest.raises(ConfigError, match="give exactly one"):
        HfQuantConfig(qat=True, overrides={"*": "int8"})
    config = HfQuantConfig("int4", recipe={"solver": "mse"}, qat=True)
    with pytest.raises(ConfigError, match="neither recipe nor calibration"):
        auto_class("bert").from_pretrained(checkpoints["bert"], quantization_config=config)
    with pytest.raises(ConfigError, match="not loaded to be trained"):
        Trainer(tiny_model("bert"), arguments(tmp_path), callbacks=[QATCallback()])
    loaded = load("bert", checkpoints["bert"])
    with pytest.raises(UnsupportedModel, match=r"leave the config out, QATCallback\(\)"):
        Trainer(loaded, arguments(tmp_path), callbacks=[QATCallback("int4")])
    with pytest.raises(ConfigError, match="settled once a model is loaded"):
        QATCallback(weights="minmax")


def test_the_flag_is_part_of_what_a_config_writes():
    config = HfQuantConfig("int4", qat=True)
    assert HfQuantConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert "qat" not in HfQuantConfig("int4").to_dict()
