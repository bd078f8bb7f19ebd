"""What Transformers asks of every quantizer, of encoder-decoders and mixtures of experts.

Other files here ask the same of BERT, GPT-2 and Llama.
"""

import copy
import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from hf_quant import HfQuantConfig
from hf_quant.modules.base import QuantizedModule
from tests.integration import test_encoder_decoders as pairs
from tests.integration.adapters import codes, same, train
from tests.integration.moe import moe_model
from tests.integration.tiny import error, tiny_model, token_ids, wrong_in_threads

MAKERS = {
    "bert": functools.partial(tiny_model, "bert"),
    "llama": functools.partial(tiny_model, "llama"),
    "bart": functools.partial(pairs.make, "bart"),
    "t5": functools.partial(pairs.make, "t5"),
    "qwen3-moe": functools.partial(moe_model, "Qwen3Moe"),
}
AUTO = {"bert": AutoModelForMaskedLM, "bart": AutoModelForSeq2SeqLM, "t5": AutoModelForSeq2SeqLM}
LAYER = {"bert": "bert.encoder.layer.1", "bart": "model.decoder.layers.1", "t5": "decoder.block.1"}
every_family = pytest.mark.parametrize("name", ["bart", "t5", "qwen3-moe"])
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The following device_map keys do not match:UserWarning"),
]
"""PEFT reads an attribute that Transformers has renamed, and finds no module for patterns that it made for stacks;
Transformers no module for BART's biases of logits."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a family's float checkpoint and of its int8 one."""

    @functools.cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        MAKERS[name]().save_pretrained(folder / "float")
        load(name, folder / "float", "int8").save_pretrained(folder / "int8")
        return folder

    return made


def load(name, folder, preset=None, **options):
    if preset is not None:
        options["quantization_config"] = HfQuantConfig(preset)
    return AUTO.get(name, AutoModelForCausalLM).from_pretrained(folder, **options).eval()


@torch.no_grad()
def outputs(model, seed=0):
    decoded = {"decoder_input_ids": token_ids(length=6, seed=1)} if model.config.is_encoder_decoder else {}
    return model(input_ids=token_ids(seed=seed), **decoded).logits.clone()


@every_family
def test_shards_are_read_and_written(name, folders, tmp_path):
    expected = outputs(load(name, folders(name) / "float", "int8"))
    MAKERS[name]().save_pretrained(tmp_path / "float", max_shard_size="60KB")
    model = load(name, tmp_path / "float", "int8")
    assert torch.equal(outputs(model), expected)
    model.save_pretrained(tmp_path / "int8", max_shard_size="20KB")
    for each in ("float", "int8"):
        assert len(list((tmp_path / each).glob("*.safetensors"))) > 1
    assert torch.equal(outputs(load(name, tmp_path / "int8")), expected)


@every_family
def test_a_device_map_changes_nothing(name, folders):
    expected = outputs(load(name, folders(name) / "int8"))
    assert torch.equal(outputs(load(name, folders(name) / "int8", device_map="auto")), expected)
    assert torch.equal(outputs(load(name, folders(name) / "float", "int8", device_map="cpu")), expected)


@every_family
def test_a_layer_on_disk_computes_what_it_does_in_memory(name, folders, tmp_path, monkeypatch):
    # What visits from disk stays in the neutral layout.
    monkeypatch.setenv("HF_QUANT_KERNEL", "aten_dequantize")
    model = load(name, folders(name) / "int8")
    layer = LAYER.get(name, "model.layers.1")
    modules = [each for each, module in model.named_modules() if not list(module.children())]
    at_root = [each for each in model.state_dict() if "." not in each]
    where = {each: "cpu" for each in modules + at_root if not each.startswith(f"{layer}.")} | {layer: "disk"}
    visited = load(name, folders(name) / "int8", device_map=where, offload_folder=tmp_path / "disk")
    assert any(parameter.is_meta for parameter in visited.get_submodule(layer).parameters())
    assert error(outputs(visited), outputs(model)) < 1e-5


@every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_that_of_the_activations_alone(name, dtype, folders, tmp_path):
    expected = outputs(load(name, folders(name) / "int8"))
    for folder, preset in (("float", "int8"), ("int8", None)):
        model = load(name, folders(name) / folder, preset, dtype=dtype)
        found = outputs(model)
        assert model.dtype is dtype and found.dtype is dtype and error(found, expected) < 0.06
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(load(name, tmp_path, dtype="auto")), found)


@every_family
def test_a_cast_changes_no_code(name, folders):
    model = load(name, folders(name) / "int8")
    before, expected = codes(model), outputs(model)
    model.to(torch.bfloat16)
    assert same(before, codes(model)) and outputs(model).dtype is torch.bfloat16
    model.to(torch.float32)
    assert same(before, codes(model)) and error(outputs(model), expected) < 0.06


@pytest.mark.parametrize("name", MAKERS)
def test_dtype_auto_is_that_of_the_checkpoint(name, folders, tmp_path):
    load(name, folders(name) / "float", dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load(name, tmp_path, "int8", dtype="auto")
    assert model.dtype is torch.bfloat16
    assert torch.equal(outputs(model), outputs(load(name, tmp_path, "int8", dtype=torch.bfloat16)))


@every_family
def test_parameters_are_counted_as_floats_and_memory_as_codes(name, folders):
    float_model, model = MAKERS[name](), load(name, folders(name) / "int8")
    for options in ({}, {"exclude_embeddings": True}):
        assert model.num_parameters(**options) == float_model.num_parameters(**options)
    # T5 keeps a linear of each layer in float32.
    assert model.get_memory_footprint() < (0.6 if name == "t5" else 0.4) * float_model.get_memory_footprint()


@every_family
def test_what_was_tied_is_tied_again(name, folders):
    float_model, model = MAKERS[name](), load(name, folders(name) / "int8")
    found = []
    for each in (float_model, model):
        table = each.get_input_embeddings().weight
        found.append({key for key, module in each.named_modules() if getattr(module, "weight", None) is table})
    assert found[0] == found[1] and (name == "qwen3-moe" or len(found[0]) > 2)


@every_family
def test_a_deep_copy_is_a_model_of_its_own(name, folders):
    model = load(name, folders(name) / "int8")
    expected, copied = outputs(model), copy.deepcopy(model)
    assert torch.equal(outputs(copied), expected)
    copied.dequantize()
    assert not any(isinstance(module, QuantizedModule) for module in copied.modules())
    assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_less_memory_while_loading_is_accepted(name, folders):
    expected = outputs(load(name, folders(name) / "int8"))
    assert torch.equal(outputs(load(name, folders(name) / "float", "int8", low_cpu_mem_usage=True)), expected)


@every_family
def test_an_adapter_learns_on_codes_that_stay_and_merges_into_them(name, folders):
    model = get_peft_model(
        load(name, folders(name) / "int8"), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    before = codes(model)
    losses = train(model.train(), steps=4)
    assert losses[-1] < losses[0] and same(before, codes(model))
    expected = outputs(model.eval())
    with pytest.warns(UserWarning, match="round"):
        merged = model.merge_and_unload()
    assert any(isinstance(module, QuantizedModule) for module in merged.modules())
    assert error(outputs(merged), expected) < 0.15


@every_family
def test_gradients_are_the_same_with_activations_computed_twice(name, folders):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(load(name, folders(name) / "int8"), LoraConfig(r=4, target_modules="all-linear"))
        if checkpointing:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable()
        model.train()
        for module in model.modules():
            for dropout in ("p", "dropout", "activation_dropout"):
                if isinstance(getattr(module, dropout, None), float):
                    setattr(module, dropout, 0.0)
        model(input_ids=token_ids(), labels=token_ids()).loss.backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 4
    for key, gradient in found[0].items():
        assert torch.allclose(found[1][key], gradient, rtol=1e-3, atol=1e-6), key


@every_family
def test_a_static_cache_generates_what_a_growing_one_does(name, folders):
    model = load(name, folders(name) / "int8")
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "no_repeat_ngram_size": 1}
    growing = model.generate(token_ids(), **greedy)
    static = model.generate(token_ids(), cache_implementation="static", disable_compile=True, **greedy)
    assert torch.equal(static, growing)


@every_family
def test_several_threads_get_what_one_gets(name, folders):
    model = load(name, folders(name) / "int8")
    expected = [outputs(load(name, folders(name) / "int8"), seed) for seed in range(3)]
    # The first call of each thread may be the one that lays weights out.
    assert not wrong_in_threads(lambda seed: outputs(model, seed), expected, threads=3, steps=4)
