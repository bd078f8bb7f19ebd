"""Buffers that no checkpoint holds are what they are in a float model, however a quantized one came to be."""

import copy

import pytest
import torch
import transformers

import hf_quant
from hf_quant import HfQuantConfig

SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
MODELS = {
    "swinv2": (transformers.Swinv2Model, transformers.Swinv2Config(**SWIN)),
    "swin2sr": (transformers.Swin2SRModel, transformers.Swin2SRConfig(**SWIN)),
    "bert": (
        transformers.BertModel,
        transformers.BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64),
    ),
}


def lost(model):
    """Buffers that are not saved, by name."""
    saved = model.state_dict()
    return {name: tensor.clone() for name, tensor in model.named_buffers() if name not in saved}


@pytest.mark.parametrize("name", MODELS)
def test_buffers_are_those_of_the_float_model(name, tmp_path):
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    expected = lost(model)
    model.save_pretrained(tmp_path / "float")
    loaded = model_class.from_pretrained(tmp_path / "float", quantization_config=HfQuantConfig("int8"))
    in_memory = hf_quant.quantize(model, "int8", progress=False)
    in_memory.save_pretrained(tmp_path / "int8")
    reloaded = model_class.from_pretrained(tmp_path / "int8")
    for quantized in (loaded, in_memory, reloaded):
        found = lost(quantized)
        for buffer, tensor in expected.items():
            assert found[buffer].dtype == tensor.dtype and torch.equal(found[buffer], tensor), buffer
    assert expected
    weights = [{n: p for n, p in each.state_dict().items()} for each in (loaded, in_memory)]
    assert all(torch.equal(tensor, weights[1][n]) for n, tensor in weights[0].items())
