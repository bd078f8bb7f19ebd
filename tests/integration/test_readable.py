"""What could not be loaded again is not saved, and what lies in the directory is left as it was."""

import copy

import pytest
import torch
from torch import nn

import hf_quant
from hf_quant.errors import SaveError
from hf_quant.modules.state import stored_state
from tests.integration.tampering import float_model, inner, load, logits
from tests.integration.test_encoder_decoders import make
from tests.integration.test_saving import contents, quantized
from tests.integration.tiny import outputs, tiny_model

NAMES = ["bert-int8", "gpt2-int4", "llama-int4", "llama-asym8", "bert-fp16"]
WAYS = {"one file": {}, "shards": {"max_shard_size": "10KB"}, "variant": {"variant": "small"}}
every_way = pytest.mark.parametrize("way", WAYS)


def stored(model):
    return stored_state(model, model.state_dict())


@pytest.fixture
def target(tmp_path):
    """A directory with an earlier checkpoint, which has to be the same after the test."""
    quantized("llama-int8").save_pretrained(tmp_path / "llama")
    before = contents(tmp_path)
    yield tmp_path / "llama"
    assert contents(tmp_path) == before


@every_way
@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_that_lacks_any_one_tensor_is_refused(name, way, tmp_path):
    model = quantized(name)
    state = stored(model)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    for lacking in state:
        if lacking in tied:
            continue
        some = {key: tensor for key, tensor in state.items() if key != lacking and tensor is not state[lacking]}
        with pytest.raises(SaveError, match=r"could not be loaded again.*Nothing was changed"):
            model.save_pretrained(tmp_path / name, state_dict=some, **WAYS[way])
    assert contents(tmp_path) == {}


@every_way
def test_a_float_under_the_name_of_codes_is_refused(way, target):
    model = quantized("llama-int4")
    state = stored(model)
    state[f"{inner('llama-int4')}.weight"] = torch.zeros(64, 128)
    with pytest.raises(SaveError, match=r"down_proj\.weight should be I32"):
        model.save_pretrained(target, state_dict=state, **WAYS[way])


def test_floats_of_a_whole_model_are_refused(target):
    with pytest.raises(SaveError, match="should be I32"):
        quantized("llama-int4").save_pretrained(target, state_dict=float_model("llama-int4").state_dict())


def test_names_of_a_wrapped_model_are_refused(target):
    model = quantized("llama-int4")
    with pytest.raises(SaveError, match="missing"):
        model.save_pretrained(target, state_dict={f"module.{key}": tensor for key, tensor in stored(model).items()})


def test_a_float_tensor_of_another_shape_is_refused(target):
    model = quantized("llama-int4")
    state = stored(model)
    state["model.norm.weight"] = torch.ones(32)
    with pytest.raises(SaveError, match=r"model\.norm\.weight .* is \[64\] by the config, but \[32\]"):
        model.save_pretrained(target, state_dict=state)


def test_codes_of_another_dtype_are_refused(target):
    model = quantized("llama-int4")
    state = {key: tensor.half() if key.endswith("scale") else tensor for key, tensor in stored(model).items()}
    with pytest.raises(SaveError, match="weight_scale should be"):
        model.save_pretrained(target, state_dict=state)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"vocab_size": 97}, {"hidden_size": 128}])
def test_a_config_that_was_changed_after_quantizing_is_refused(changes, target):
    model = quantized("llama-int4")
    vars(model.config).update(changes)
    with pytest.raises(SaveError, match="could not be loaded again"):
        model.save_pretrained(target)


def test_a_part_that_the_class_does_not_have_in_this_place_is_refused(target):
    model = quantized("llama-int4")
    model.lm_head = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 96))
    with pytest.raises(SaveError, match="lm_head"):
        model.save_pretrained(target)


@pytest.mark.parametrize("name", ["t5", "marian", "bart"])
def test_models_with_one_table_are_refused_without_it_and_saved_with_it(name, tmp_path):
    model = hf_quant.quantize(make(name), "int8", progress=False)
    state = stored(model)
    table = next(key for key in state if key.endswith("shared.weight"))
    some = {key: value for key, value in state.items() if value.data_ptr() != state[table].data_ptr()}
    with pytest.raises(SaveError, match="could not be loaded again"):
        model.save_pretrained(tmp_path, state_dict=some)
    assert contents(tmp_path) == {}
    model.save_pretrained(tmp_path, state_dict=state)


@pytest.mark.parametrize("other", [{}, {"variant": "half"}, {"variant": "half", "max_shard_size": "10KB"}])
def test_weights_that_the_new_config_would_not_describe_are_not_orphaned(other, tmp_path):
    quantized("llama-int8").save_pretrained(tmp_path, **other)
    before = contents(tmp_path)
    with pytest.raises(SaveError, match=r"the default|variant 'half'.*save to another directory"):
        quantized("llama-int4").save_pretrained(tmp_path, variant="small")
    assert contents(tmp_path) == before
    quantized("llama-int8").save_pretrained(tmp_path, variant="small")


def test_a_quantized_model_does_not_orphan_a_float_variant(tmp_path):
    float_model("llama-int4").save_pretrained(tmp_path, variant="float")
    with pytest.raises(SaveError, match="variant 'float'"):
        quantized("llama-int4").save_pretrained(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_saving_draws_no_random_number_and_leaves_the_model_as_it_was(name, tmp_path):
    model = quantized(name)
    expected, config = logits(model), copy.deepcopy(model.config.quantization_config)
    torch.manual_seed(3)
    model.save_pretrained(tmp_path / name)
    found = torch.rand(3)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(logits(model), expected) and model.config.quantization_config == config
    assert torch.equal(logits(load(tmp_path / name)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_was_cast_is_saved(dtype, tmp_path):
    model = hf_quant.quantize(tiny_model("bert"), "int8", progress=False).to(dtype)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(type(model).from_pretrained(tmp_path)), outputs(model))
