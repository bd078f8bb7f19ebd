"""What a quantized model says of its size: bytes are those in memory, numbers those of the float model."""

import pytest
from peft import get_peft_model

from hf_quant.modules.base import QuantizedModule
from tests.integration.adapters import lora_config
from tests.integration.tiny import CHECKPOINTS, auto_class, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT reads an attribute that Transformers has renamed."""

LARGEST = {"int8": 0.33, "int4": 0.22}
"""Preset to the share of the float model's bytes; norms and biases of a tiny model count."""


@pytest.mark.parametrize("preset", LARGEST)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_footprint_is_the_bytes_of_codes_and_scales(name, preset, load):
    model, float_model = load(name, preset), tiny_model(name)
    assert 0.1 < model.get_memory_footprint() / float_model.get_memory_footprint() < LARGEST[preset]
    weights = {id(w): w for m in model.modules() if isinstance(m, QuantizedModule) for w in m.weights.values()}
    codes = sum(tensor.nbytes for weight in weights.values() for tensor in weight.neutral().values())
    assert model.get_memory_footprint(return_buffers=False) >= codes
    buffers = {buffer.data_ptr(): buffer.nbytes for buffer in model.buffers()}
    assert model.get_memory_footprint() - model.get_memory_footprint(return_buffers=False) == sum(buffers.values())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_footprint_of_a_float_model_is_that_of_transformers(name):
    model = tiny_model(name)
    expected = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert model.get_memory_footprint() == expected


@pytest.mark.parametrize("preset", LARGEST)
def test_a_reloaded_checkpoint_and_adapters_count_as_well(preset, load, quantized_checkpoints):
    before = load("llama", preset).get_memory_footprint()
    model = auto_class("llama").from_pretrained(quantized_checkpoints["llama", preset])
    assert model.get_memory_footprint() == pytest.approx(before, rel=0.02)
    adapted = get_peft_model(model, lora_config("llama"))
    trained = sum(parameter.nbytes for parameter in adapted.parameters() if parameter.requires_grad)
    assert adapted.get_memory_footprint() == pytest.approx(before + trained, rel=0.02)


@pytest.mark.parametrize("preset", LARGEST)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parameters_are_counted_as_those_of_the_float_model(name, preset, load):
    model, float_model = load(name, preset), tiny_model(name)
    assert model.num_parameters() == float_model.num_parameters()
    assert model.num_parameters(exclude_embeddings=True) == float_model.num_parameters(exclude_embeddings=True)
    assert model.dtype == float_model.dtype
