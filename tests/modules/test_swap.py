"""Float modules out, quantized modules in, and back: ties, names and everything else stay as they were."""

import copy
import weakref

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Candidate, Plan, preset_plan
from hf_quant.config.presets import PRESETS, get_preset
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.state import stored_state
from hf_quant.modules.swap import Places, exchange, quantized_modules, restore_float, swap
from tests.quantized_linear import relative_error
from tests.quantized_modules import COPIES, IDS, Body, Model, quantize, quantized_model

INTEGER = [name for name, preset in PRESETS.items() if preset.linear.weight.has_scales]
every_preset = pytest.mark.parametrize("preset", PRESETS)
integer_preset = pytest.mark.parametrize("preset", INTEGER)


class ClampedLinear(nn.Linear):
    """A linear that computes something else."""

    def forward(self, input):
        return super().forward(input).clamp(-1, 1)


def head_and_table(model):
    return model.head, model.body.embed


def test_candidates_are_linears_embeddings_and_heads_with_their_widths():
    assert Inventory.of(Model()).candidates == {
        "body.embed": Candidate("embedding", 64),
        "body.linear": Candidate("linear", 64),
        "body.conv": Candidate("linear", 64),
        "down": Candidate("head", 128),
        "head": Candidate("head", 64),
    }


def test_without_a_base_model_no_linear_is_a_head():
    assert {entry.kind for entry in Inventory.of(Body()).candidates.values()} == {"embedding", "linear"}


def test_a_class_that_computes_something_else_than_a_linear_is_left_alone():
    model = nn.ModuleDict({"plain": nn.Linear(8, 8), "special": ClampedLinear(8, 8)})
    assert list(Inventory.of(model).candidates) == ["plain"]
    special, expected = model["special"], model["special"](torch.ones(8))
    quantize(model, preset_plan("int8", Inventory.of(model).candidates))
    assert model["special"] is special and torch.equal(model["special"](torch.ones(8)), expected)
    assert type(model["plain"]) is QuantizedLinear


def test_a_quantized_module_is_no_candidate_again():
    assert Inventory.of(quantized_model("int8")).candidates == {}


def test_ties_are_found_on_real_tensors_and_in_what_transformers_declares():
    assert Inventory.of(Model()).ties == {"head": "body.embed"}
    with torch.device("meta"):
        declared = Model()
    declared.all_tied_weights_keys = {"head.weight": "body.embed.weight"}
    assert Inventory.of(declared).ties == {"head": "body.embed"}
    untied = Model()
    untied.head.weight = nn.Parameter(untied.head.weight.clone())
    assert Inventory.of(untied).ties == {}


@integer_preset
def test_each_class_has_its_counterpart(preset):
    model = quantized_model(preset)
    types = {name: type(module) for name, module in quantized_modules(model)}
    assert types == {
        "body.embed": QuantizedEmbedding,
        "body.linear": QuantizedLinear,
        "body.conv": QuantizedConv1D,
        "down": QuantizedLinear,
        "head": QuantizedLinear,
    }
    assert type(model.body.norm) is nn.LayerNorm


@every_preset
def test_the_quantized_model_is_close_to_the_float_one(preset):
    with torch.no_grad():
        expected, output = Model()(IDS), quantized_model(preset)(IDS)
    tolerance = {"int4": 0.2, "w4a16": 0.2, "int8-static": 0.05}.get(preset, 0.02)
    assert float((output - expected).norm() / expected.norm()) < tolerance


@every_preset
def test_none_in_a_plan_leaves_a_module_as_it_is(preset):
    model = Model()
    linear = model.body.linear
    plan = preset_plan(preset, Inventory.of(model).candidates)
    quantize(model, Plan({**plan.modules, "body.linear": None}))
    assert model.body.linear is linear and type(linear) is nn.Linear


@pytest.mark.parametrize("training", [True, False])
def test_modules_stay_in_their_mode(training):
    model = Model().train(training)
    quantize(model, preset_plan("int8", Inventory.of(model).candidates))
    assert all(module.training == training for module in model.modules())
    restore_float(model, torch.float32)
    assert all(module.training == training for module in model.modules())


def test_on_meta_nothing_is_allocated():
    with torch.device("meta"):
        model = Model()
    swap(model, preset_plan("int4", Inventory.of(model).candidates), {"head": "body.embed"}, device="meta")
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert model.head.tied and not model.body.embed.tied


@every_preset
def test_tied_embedding_and_head_share_storage(preset):
    head, table = head_and_table(quantized_model(preset))
    assert head.weight is table.weight
    if isinstance(head, QuantizedModule):
        assert head.weights["weight"] is table.weights["weight"]


@every_preset
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_copies_share_storage_as_the_original_does_and_give_identical_outputs(preset, duplicate):
    model = quantized_model(preset)
    twin = duplicate(model)
    head, table = head_and_table(twin)
    assert head.weight.data_ptr() == table.weight.data_ptr() != model.head.weight.data_ptr()
    if isinstance(head, QuantizedModule):
        assert head.weights["weight"] is table.weights["weight"]
    assert torch.equal(twin(IDS), model(IDS))


@every_preset
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_ties_and_scales_survive_a_cast(preset, dtype):
    model = quantized_model(preset)
    scales = {name: module.neutral()["scale"].clone() for name, module in quantized_modules(model)}
    model.to(dtype)
    head, table = head_and_table(model)
    assert head.weight.data_ptr() == table.weight.data_ptr()
    for name, module in quantized_modules(model):
        scale = module.neutral()["scale"]
        assert scale.dtype == scales[name].dtype and torch.equal(scale, scales[name])
    if isinstance(head, QuantizedModule):
        assert head.weights["weight"] is table.weights["weight"]
    assert model(IDS).dtype == dtype


@integer_preset
def test_a_tied_head_saves_no_scale_of_its_own(preset):
    model = quantized_model(preset)
    names = set(stored_state(model, model.state_dict()))
    assert "body.embed.weight_scale" in names and "head.weight_scale" not in names
    assert "down.weight_scale" in names


@every_preset
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_loads_into_another_model(preset, assign):
    model, other = quantized_model(preset), quantized_model(preset, seed=1)
    assert not torch.equal(other(IDS), model(IDS))
    other.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(other(IDS), model(IDS))


@every_preset
def test_loading_the_body_alone_reaches_the_head_that_is_tied_to_it(preset):
    model, other = quantized_model(preset), quantized_model(preset, seed=1)
    other.body.load_state_dict(model.body.state_dict())
    other.down.load_state_dict(model.down.state_dict())
    assert torch.equal(other(IDS), model(IDS))


@integer_preset
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_restoring_gives_float_classes_ties_and_the_values_of_the_codes(preset, dtype):
    model = quantized_model(preset)
    decoded = {name: module.dequantized_weight() for name, module in quantized_modules(model)}
    restore_float(model, dtype)
    source = Model()
    for name, weight in decoded.items():
        module = model.get_submodule(name)
        assert type(module) is type(source.get_submodule(name))
        expected = weight.t() if isinstance(module, Conv1D) else weight
        assert module.weight.dtype == dtype and torch.equal(module.weight, expected.to(dtype))
    assert model.head.weight is model.body.embed.weight
    assert model.body.embed.padding_idx == 3 and model.head.bias is None
    assert torch.equal(model.body.linear.bias, source.body.linear.bias.to(dtype))


@every_preset
def test_a_restored_model_can_be_quantized_again_to_the_same_outputs(preset):
    model = quantized_model(preset)
    expected = model(IDS)
    restore_float(model, torch.float32)
    quantize(model, preset_plan(preset, Inventory.of(model).candidates))
    # Scales of groups are rounded to bfloat16, so that the range decoded differs a little from the one encoded.
    assert relative_error(model(IDS).detach(), expected.detach()) < (0.05 if "4" in preset else 1e-3)


def test_two_linears_that_share_a_weight_share_its_codes():
    model = nn.ModuleDict({"one": nn.Linear(64, 64), "two": nn.Linear(64, 64)})
    model["two"].weight = model["one"].weight
    scheme = get_preset("w4a16").linear
    twin = copy.deepcopy(quantize(model, Plan({"*": scheme}).resolve(Inventory.of(model).candidates)))
    input = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin["one"](input), model["one"](input)) and torch.equal(twin["two"](input), model["two"](input))
    assert torch.equal(model["one"].dequantized_weight(), model["two"].dequantized_weight())
    restore_float(model, torch.float32)
    assert torch.equal(model["one"].weight, model["two"].weight)


def test_places_that_are_known_serve_one_exchange_after_another():
    first, second, shared = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.ModuleDict({"a": nn.Sequential(first, shared), "b": nn.Sequential(second, shared)})
    places, gone = Places(model), weakref.ref(first)
    made = [nn.Linear(2, 2) for _ in range(3)]
    exchange(model, {"a.0": made[0]}, places)
    del first
    assert gone() is None
    exchange(model, {"b.1": made[1]}, places)
    exchange(model, {"b.0": made[2]}, places)
    assert [*model["a"], *model["b"]] == [made[0], made[1], made[2], made[1]]


def test_a_child_is_exchanged_in_what_took_the_place_of_its_parent():
    child, new = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(child))
    places, parent = Places(model), nn.Sequential(child)
    exchange(model, {"0": parent}, places)
    exchange(model, {"0.0": new}, places)
    assert model[0] is parent and parent[0] is new


class Listing(nn.Module):
    """A head that calls its layers by lists of its own, as MaskFormer's do, and one by an attribute."""

    def __init__(self):
        super().__init__()
        first, second, third = (nn.Linear(64, 64) for _ in range(3))
        self.layers = [first, nn.ReLU()]
        self.add_module("first", first)
        self.by_name = {"rest": [(second, nn.ReLU())]}
        self.add_module("second", second)
        self.add_module("third", third)
        self.__dict__["last"] = third

    def forward(self, input):
        for layer in [*self.layers, *self.by_name["rest"][0], self.last]:
            input = layer(input)
        return input


@torch.no_grad()
def test_modules_that_a_model_also_keeps_in_lists_are_exchanged_there_and_back():
    torch.manual_seed(0)
    model = Listing()
    input = torch.randn(3, 64)
    kept, expected = model.layers, model(input)
    quantize(model, preset_plan("int8", Inventory.of(model).candidates))
    assert model.layers is kept and model.layers[0] is model.first and isinstance(model.first, QuantizedLinear)
    assert model.by_name["rest"][0][0] is model.second and model.last is model.third
    assert 0 < relative_error(model(input), expected) < 0.05
    found = model(input)
    restore_float(model, torch.float32)
    assert [type(each) for each in (model.layers[0], model.by_name["rest"][0][0], model.last)] == [nn.Linear] * 3
    assert relative_error(model(input), found) < 0.02
