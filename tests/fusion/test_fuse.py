"""Fused parts of models: found, proved, undone, and never in the way."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.activations import ACT2FN

import hf_quant
from hf_quant import Scheme, TensorScheme
from hf_quant.fusion.activation import activation_number
from hf_quant.fusion.fuse import fuse, unfuse
from hf_quant.fusion.mixin import Fused
from hf_quant.kernels.native import library, structs
from tests.integration.tiny import FAMILIES, error, outputs, tiny_model, token_ids

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

PRESETS = ("int8", "int4", "w4a16")
EXPECTED = {
    "bert": {"BertIntermediate", "BertSelfOutput", "BertOutput", "BertLayer"},
    "gpt2": {"GPT2MLP"},
    "llama": {"LlamaMLP", "LlamaRMSNorm"},
}


def quantized(name, preset="int8", **changes):
    return hf_quant.quantize(tiny_model(name, **changes), preset, progress=False)


def fused_classes(model):
    return {type(module).__name__ for module in model.modules() if isinstance(module, Fused)}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_block_of_the_three_families_is_fused_and_gives_the_same(name, preset):
    model = quantized(name, preset)
    assert fused_classes(model) == EXPECTED[name]
    found = outputs(model)
    unfuse(model)
    assert fused_classes(model) == set()
    # Sums in another order, which may round an input to another code.
    assert error(found, outputs(model)) < 2e-2
    fuse(model)
    assert torch.equal(found, outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fused_module_is_one_of_its_own_class_still(name):
    reference = tiny_model(name)
    for path, module in quantized(name).named_modules():
        if isinstance(module, Fused):
            original = type(reference.get_submodule(path))
            assert isinstance(module, original) and type(module).__name__ == original.__name__
            assert repr(module).startswith(original.__name__)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["copy", "pickle"])
@pytest.mark.parametrize("name", FAMILIES)
def test_copies_are_fused_and_give_the_same(name, duplicate):
    model = quantized(name)
    twin = duplicate(model)
    assert fused_classes(twin) == EXPECTED[name]
    assert torch.equal(outputs(twin), outputs(model))
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_names_in_the_checkpoint_stay(name):
    model = quantized(name)
    fused = dict(model.state_dict())
    unfuse(model)
    assert list(fused) == list(model.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_cast_model_stays_fused(name, dtype):
    model = quantized(name)
    before = outputs(model)
    model.to(dtype)
    assert fused_classes(model) == EXPECTED[name]
    after = outputs(model)
    assert after.dtype == dtype and error(after, before) < 5e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_go_the_long_way_and_are_those_of_the_unfused_model(name):
    model = quantized(name)
    gradients = []
    for _ in range(2):
        embeddings = model.get_input_embeddings()(token_ids()).detach().requires_grad_()
        model(inputs_embeds=embeddings).logits.float().pow(2).mean().backward()
        gradients.append(embeddings.grad)
        unfuse(model)
    assert error(*gradients) < 5e-2


def test_dropout_goes_the_long_way():
    model = quantized("gpt2", resid_pdrop=0.5)
    model.train()
    torch.manual_seed(0)
    one = outputs(model)
    assert not torch.equal(one, outputs(model))
    model.eval()
    assert torch.equal(outputs(model), outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_hooks_inside_a_block_are_called(name):
    model = quantized(name)
    inside = [child for module in model.modules() if isinstance(module, Fused) for child in module.children()]
    seen = set()
    for child in inside:
        child.register_forward_hook(lambda module, args, output: seen.add(module))
    outputs(model)
    assert set(inside) <= seen


def test_a_norm_that_is_trained_gets_its_gradient():
    model = quantized("bert")
    embedded = model.bert.embeddings(token_ids()).detach()
    layer = model.bert.encoder.layer[0]
    layer(embedded)[0].sum().backward()
    assert layer.output.LayerNorm.weight.grad is not None
    assert layer.attention.output.LayerNorm.weight.grad is not None


def test_dequantizing_leaves_nothing_fused():
    for name in FAMILIES:
        model = quantized(name).dequantize()
        assert fused_classes(model) == set() and model.config._attn_implementation == "sdpa"


class Doubled(nn.Module):
    """What looks like a feed-forward block and is none."""

    def __init__(self, mlp):
        super().__init__()
        self.up, self.down, self.act = nn.Linear(64, 128), nn.Linear(128, 64), nn.SiLU()

    def forward(self, hidden_states):
        return 2 * self.down(self.act(self.up(hidden_states)))


class Shifted(nn.Module):
    """A norm that adds a little to its weight."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = nn.Parameter(norm.weight.data - 0.01), 1e-6

    def forward(self, hidden_states):
        return nn.functional.rms_norm(hidden_states, (64,), 0.01 + self.weight, self.eps)


@pytest.mark.parametrize(("part", "impostor"), [("mlp", Doubled), ("input_layernorm", Shifted)])
def test_what_computes_something_else_is_left_alone(part, impostor):
    model = tiny_model("llama")
    layer = model.model.layers[0]
    layer.set_submodule(part, impostor(getattr(layer, part)))
    hf_quant.quantize(model, "int8", progress=False)
    assert not isinstance(getattr(layer, part), Fused)
    found = outputs(model)
    unfuse(model)
    assert error(found, outputs(model)) < 2e-2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_in_a_block_goes_the_long_way():
    from peft import LoraConfig, get_peft_model

    model = quantized("llama")
    adapted = get_peft_model(model, LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
    with adapted.disable_adapter():
        plain = outputs(adapted)
    assert error(outputs(adapted), plain) > 1e-3


@pytest.mark.parametrize("name", sorted(set(ACT2FN) - {"prelu", "xielu"}))
def test_an_activation_is_known_by_what_it_computes(name):
    number = activation_number(ACT2FN[name])
    points = torch.linspace(-5, 5, 50)
    functions = {
        structs.ACTIVATIONS["gelu"]: nn.functional.gelu,
        structs.ACTIVATIONS["gelu_tanh"]: lambda x: nn.functional.gelu(x, approximate="tanh"),
        structs.ACTIVATIONS["silu"]: nn.functional.silu,
        structs.ACTIVATIONS["relu"]: nn.functional.relu,
    }
    if name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu"):
        assert number is not None
    if number is not None:
        torch.testing.assert_close(ACT2FN[name](points), functions[number](points), rtol=0, atol=1e-5)


def test_modules_that_are_no_activation_are_none():
    for module in (nn.Linear(3, 3), nn.Softmax(-1), nn.Embedding(2, 2), nn.Identity()):
        assert activation_number(module) is None


def test_the_logits_to_keep_and_hidden_states_of_a_fused_model_are_there():
    model = quantized("llama")
    assert isinstance(model, LlamaForCausalLM)
    result = model(input_ids=token_ids(), output_hidden_states=True, logits_to_keep=1)
    assert result.logits.shape[1] == 1 and len(result.hidden_states) == 3


STATIC = Scheme(TensorScheme(bits=8), TensorScheme(bits=8, symmetric=False, granularity="tensor"))


def static_model():
    """A Llama whose linears each have a static grid of their own."""
    ids = [token_ids(rows=1, seed=seed)[0] for seed in range(4)]
    config = hf_quant.HfQuantConfig(scheme=STATIC, calibration=hf_quant.Calibration(ids, samples=4, sequence_length=16))
    return hf_quant.quantize(tiny_model("llama"), config, progress=False)


def test_linears_whose_static_inputs_have_other_grids_do_not_share_them():
    model = static_model()
    unfuse(model)
    for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
        getattr(model.model.layers[0].self_attn, name).input_scale.mul_(1 + index)
    model.model.layers[0].mlp.gate_proj.input_scale.mul_(2)
    model.load_state_dict(model.state_dict())
    expected = outputs(model)
    fuse(model)
    assert error(outputs(model), expected) < 2e-2


def test_static_grids_that_are_loaded_later_are_used():
    model = static_model()
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("input_scale"):
            state[name] = tensor * 3
    before = outputs(model)
    model.load_state_dict(state)
    found = outputs(model)
    unfuse(model)
    assert error(found, outputs(model)) < 2e-2 and error(found, before) > 1e-2
    fuse(model)
    assert error(outputs(model), found) < 2e-2
