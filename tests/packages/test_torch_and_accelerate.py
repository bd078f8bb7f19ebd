"""What torch and Accelerate do with whole models, on a quantized MiniLM and SmolLM2."""

import io

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, load_model, save_file, save_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from hf_quant.demo.packaged import minilm_directory, smollm2_directory
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.base import QuantizedModule
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.adapters import codes, same
from tests.integration.tiny import error
from tests.packages.models import PRESETS, slow

pytestmark = slow

SOURCES = {"minilm": (minilm_directory, AutoModel), "smollm2": (smollm2_directory, AutoModelForCausalLM)}
every_model = pytest.mark.parametrize("name", SOURCES)
every_preset = pytest.mark.parametrize("preset", PRESETS)
SHARE = {"int8": 0.3, "int4": 0.25}
"""Preset to the bytes of a real model, relative to float32, at most."""

ROUNDED = 0.04
"""What an embedding that is off by 1e-6 makes of the outputs of a deep model, whose inputs are rounded."""


def real(name, preset=None):
    directory, auto_class = SOURCES[name]
    config = {"quantization_config": HfQuantConfig(preset)} if preset else {}
    return auto_class.from_pretrained(directory(), dtype=torch.float32, **config).eval()


def batch(name):
    return AutoTokenizer.from_pretrained(SOURCES[name][0]())("Two late goals won the match.", return_tensors="pt")


@torch.no_grad()
def computed(model, name):
    return model(**batch(name))[0].clone()


@every_preset
@every_model
def test_sizes_are_those_of_memory_and_numbers_those_of_the_float_model(name, preset):
    model, float_model = real(name, preset), real(name)
    assert model.get_memory_footprint() < SHARE[preset] * float_model.get_memory_footprint()
    assert model.num_parameters() == float_model.num_parameters() and model.dtype == torch.float32
    assert "scheme=" in repr(model)
    assert accelerate.infer_auto_device_map(model, max_memory={"cpu": "4GB"}) == {"": "cpu"}


@every_preset
@every_model
def test_offloaded_weights_compute_what_they_did(name, preset, tmp_path):
    expected = computed(real(name, preset), name)
    for offload, options in ((accelerate.cpu_offload, {}), (accelerate.disk_offload, {"offload_dir": str(tmp_path)})):
        model = real(name, preset)
        offload(model, execution_device="cpu", **options)
        assert error(computed(model, name), expected) < ROUNDED


@every_preset
@every_model
def test_tracing_is_refused_and_the_model_computes_on(name, preset):
    model = real(name, preset)
    expected = computed(model, name)
    with pytest.raises(UnsupportedModel, match=r"torch\.export"):
        torch.jit.trace(model, tuple(batch(name).values()), strict=False)
    with pytest.raises(UnsupportedModel, match=r"torch\.export"):
        torch.jit.script(model)
    assert torch.equal(computed(model, name), expected)


@every_preset
def test_adapters_are_averaged_over_codes_that_stay(preset):
    model = get_peft_model(real("minilm", preset), LoraConfig(r=4, target_modules=["query", "value"]))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    before = codes(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for _ in range(3):
        model(**batch("minilm"))[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
    assert same(before, codes(averaged)) and same(before, codes(model))
    last, mean, first = (
        computed(model, "minilm"),
        computed(averaged.module, "minilm"),
        computed(real("minilm", preset), "minilm"),
    )
    assert 0 < error(mean, first) < error(last, first)


@every_preset
@every_model
def test_a_state_dict_is_saved_and_loaded_by_torch_and_by_safetensors(name, preset, tmp_path):
    model = real(name, preset)
    expected = computed(model, name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert file.tell() < SHARE[preset] * 4 * model.num_parameters()
    file.seek(0)
    other = real(name, preset)
    other.load_state_dict(torch.load(file))
    assert torch.equal(computed(other, name), expected)

    # Libraries that know no codes write floats, which are taken back where they are what the codes stand for.
    save_model(model, str(tmp_path / "model.safetensors"))
    load_model(other, str(tmp_path / "model.safetensors"))
    assert torch.equal(computed(other, name), expected)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(computed(other, name), expected)
    with pytest.raises(RuntimeError, match="stands for other numbers"):
        other.load_state_dict(real(name).state_dict())
    assert any(isinstance(module, QuantizedModule) for module in other.modules())
