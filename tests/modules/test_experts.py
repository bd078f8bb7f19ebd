"""Opened experts to code that does not know them: names, tensors, state dicts and copies."""

import copy
import pickle

import pytest
import torch

import hf_quant
from hf_quant.modules.opened import Opened
from hf_quant.opening.open import Opening
from tests.integration.moe import moe_model
from tests.integration.tiny import outputs

NAME = "model.layers.0.mlp.experts"


def opened_model(family):
    model = moe_model(family)
    Opening(model).keep([f"{NAME}.0.up_proj", "model.layers.1.mlp.experts.0.up_proj"])
    return model


@pytest.mark.parametrize("family", ["Mixtral", "GptOss"])
def test_the_stacked_tensors_can_still_be_read(family):
    whole = moe_model(family).get_submodule(NAME)
    experts = opened_model(family).get_submodule(NAME)
    for name, tensor in whole.named_parameters():
        assert torch.equal(getattr(experts, name), tensor)
    with pytest.raises(AttributeError, match="no attribute 'up_gate_proj'"):
        _ = experts.up_gate_proj
    quantized = hf_quant.quantize(moe_model(family), "w8a16", progress=False).get_submodule(NAME)
    for name, tensor in whole.named_parameters():
        found = getattr(quantized, name)
        assert found.shape == tensor.shape and (found - tensor).norm() < 0.01 * tensor.norm()


def test_a_state_dict_of_floats_goes_in_and_out_under_the_names_of_before():
    first, second = moe_model("GptOss"), opened_model("GptOss")
    for parameter in second.parameters():
        parameter.data.zero_()
    second.load_state_dict(first.state_dict())
    assert torch.allclose(outputs(second), outputs(first), rtol=1e-4, atol=1e-5)
    third = moe_model("GptOss", seed=1)
    third.load_state_dict(second.state_dict())
    assert torch.equal(outputs(third), outputs(first))


def test_the_state_dict_of_a_quantized_model_loads_into_another():
    first = hf_quant.quantize(moe_model("Mixtral"), "int8", progress=False)
    second = hf_quant.quantize(moe_model("Mixtral", seed=1), "int8", progress=False)
    assert not torch.equal(outputs(first), outputs(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(outputs(first), outputs(second))


@pytest.mark.parametrize("family", ["Mixtral", "GptOss", "JetMoe"])
def test_copies_and_pickles_compute_the_same(family):
    model = hf_quant.quantize(moe_model(family), "int8", progress=False)
    expected = outputs(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sum(isinstance(module, Opened) for module in copied.modules()) > 0
        assert torch.equal(outputs(copied), expected)


def test_an_index_of_no_expert_adds_nothing():
    experts = opened_model("Mixtral").get_submodule(NAME)
    states, index = torch.randn(4, 64), torch.tensor([[0, 4], [4, 4], [1, 2], [3, 9]])
    weights = torch.rand(4, 2)
    found = experts(states, index, weights)
    assert not found[1].any()
    assert torch.allclose(found[0], experts(states[:1], index[:1, :1], weights[:1, :1])[0])


def test_no_token_at_all_gives_no_output():
    for preset in (None, "int8"):
        model = opened_model("Mixtral") if preset is None else hf_quant.quantize(moe_model("Mixtral"), preset)
        found = model.get_submodule(NAME)(torch.zeros(0, 64), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2))
        assert found.shape == (0, 64)
