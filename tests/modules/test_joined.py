"""Quantized modules of a class that a model derives: what that class does and holds stays, on codes and back."""

import pickle

import pytest
import torch
from torch import nn

from hf_quant.config.plan import preset_plan
from hf_quant.config.presets import get_preset
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.joined import replaced_output
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import restore_float
from tests.modules import derived_classes as classes
from tests.quantized_modules import COPIES, quantize

IDS = torch.tensor([[1, 3, 3, 39], [0, 7, 7, 5]])
ROWS = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
CALLS = {
    "scaled": (lambda: classes.ScaledEmbedding(40, 64, 3), IDS),
    "offset": (lambda: classes.OffsetEmbedding(40, 64), torch.ones(2, 4, dtype=torch.long)),
    "shaped": (lambda: classes.ShapedEmbedding(40, 64), IDS.shape),
    "normed": (lambda: classes.NormedEmbedding(40, 64), IDS),
    "written out": (lambda: classes.WrittenOutLinear(64, 32), ROWS),
    "scaled linear": (lambda: classes.ScaledLinear(64, 32), ROWS),
    "scaled Conv1D": (lambda: classes.ScaledConv1D(32, 64), ROWS),
}
every_class = pytest.mark.parametrize(("make", "input"), CALLS.values(), ids=CALLS)
every_preset = pytest.mark.parametrize("preset", ["int8", "int8-static", "w8a16", "bf16"])


def parts(make, preset=None):
    """A model of one module, float or under a preset."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.ModuleDict({"it": make()}).eval()
    return model if preset is None else quantize(model, preset_plan(preset, Inventory.of(model).candidates))


@every_preset
@every_class
def test_it_is_close_to_the_float_module_and_of_both_classes(make, input, preset):
    model, source = parts(make, preset), parts(make)
    assert isinstance(model["it"], QuantizedModule | StoredModule) and isinstance(model["it"], type(source["it"]))
    with torch.no_grad():
        expected, output = source["it"](input), model["it"](input)
    assert float((output - expected).norm() / expected.norm()) < (0.05 if preset == "int8-static" else 0.02)
    assert output.dtype == expected.dtype


@every_preset
@every_class
def test_it_gives_the_class_and_its_attributes_back(make, input, preset):
    model, source = parts(make, preset), parts(make)
    with torch.no_grad():
        expected = model["it"](input)
        restore_float(model, torch.float32)
        output = model["it"](input)
    restored, original = model["it"], source["it"]
    assert type(restored) is type(original) and vars(restored).keys() == vars(original).keys()
    for kind in ("_parameters", "_buffers", "_modules"):
        assert list(vars(restored)[kind]) == list(vars(original)[kind])
    assert restored._non_persistent_buffers_set == original._non_persistent_buffers_set
    tolerance = {"int8": 0.02, "int8-static": 0.05}.get(preset, 5e-3)
    assert float((output - expected).norm() / expected.norm()) < tolerance
    again = quantize(model, preset_plan(preset, Inventory.of(model).candidates))
    with torch.no_grad():
        assert torch.allclose(again["it"](input), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


@every_class
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_and_pickles_give_identical_outputs(duplicate, make, input):
    for preset in ("w8a16", "bf16"):
        model = parts(make, preset)
        twin = duplicate(model)
        assert type(twin["it"]) is type(model["it"])
        with torch.no_grad():
            assert torch.equal(twin["it"](input), model["it"](input))


def test_a_constant_is_applied_once_to_the_rows_that_the_codes_stand_for():
    module = parts(lambda: classes.ScaledEmbedding(40, 64, 3), "w8a16")["it"]
    assert torch.equal(module(IDS), module.dequantized_weight()[IDS] * 2.5)
    assert module.note == "kept" and module.padding_idx == 3 and "embed_scale" not in module.state_dict()
    assert torch.equal(module.to(torch.bfloat16)(IDS), module.dequantized_weight()[IDS].bfloat16() * 2.5)


def test_a_stored_table_does_not_round_the_constant_to_its_own_dtype():
    module = parts(lambda: classes.ScaledEmbedding(40, 64, scale=2.3), "bf16")["it"]
    stored = module.weight
    assert stored.dtype == torch.bfloat16
    assert torch.equal(module(IDS), stored.float()[IDS] * 2.3) and module.weight is stored


def test_what_reads_a_stored_table_around_its_rows_gets_its_numbers_in_the_models_dtype():
    class Soft(nn.Embedding):
        def forward(self, input):
            return input @ self.weight if input.is_floating_point() else super().forward(input)

    module, shares = parts(lambda: Soft(40, 64), "bf16")["it"], torch.rand(2, 40)
    assert torch.equal(module(shares), shares @ module.weight.float())


def test_its_name_is_that_of_the_counterpart_and_the_class_is_made_once():
    first, second = (parts(lambda: classes.ScaledEmbedding(40, 64), "int8")["it"] for _ in range(2))
    assert type(first) is type(second) and type(first).__name__ == "QuantizedEmbedding"
    assert type(first) is not QuantizedEmbedding and isinstance(first, QuantizedEmbedding)


def test_a_linear_in_other_words_runs_what_any_quantized_linear_runs():
    written_out, plain = parts(lambda: classes.WrittenOutLinear(64, 32)), parts(lambda: nn.Linear(64, 32))
    plain["it"].load_state_dict(written_out["it"].state_dict())
    one, two = (
        quantize(m, preset_plan("int8-static", {"it": Inventory.of(m).candidates["it"]})) for m in (written_out, plain)
    )
    assert type(one["it"]).forward is QuantizedLinear.forward
    assert torch.equal(one["it"](ROWS), two["it"](ROWS))


def test_a_head_that_is_tied_to_a_scaled_table_shares_its_codes_without_the_constant():
    model = nn.ModuleDict({"table": classes.ScaledEmbedding(40, 64), "head": nn.Linear(64, 40, bias=False)})
    model["head"].weight = model["table"].weight
    quantize(model, preset_plan("w8a16", Inventory.of(model).candidates))
    assert model["head"].weight is model["table"].weight
    table = model["table"].dequantized_weight()
    assert torch.equal(model["table"](IDS), table[IDS] * 2.5)
    # The kernel may multiply in bfloat16.
    assert torch.allclose(model["head"](ROWS), ROWS @ table.T, atol=0.05)
    restore_float(model, torch.float32)
    assert model["head"].weight is model["table"].weight and type(model["table"]) is classes.ScaledEmbedding


def test_a_child_that_is_quantized_is_exchanged_within():
    class Holder(classes.ScaledEmbedding):
        def __init__(self):
            super().__init__(40, 64)
            self.add_module("down", nn.Linear(64, 32))

        def forward(self, input_ids):
            return self.down(super().forward(input_ids))

    model = parts(Holder)
    expected = model["it"](IDS).detach()
    quantize(model, preset_plan("w8a16", Inventory.of(model).candidates))
    assert type(model["it"].down) is QuantizedLinear and isinstance(model["it"], QuantizedEmbedding)
    assert float((model["it"](IDS) - expected).norm() / expected.norm()) < 0.02
    restore_float(model, torch.float32)
    assert type(model["it"]) is Holder and type(model["it"].down) is nn.Linear


def test_codes_that_visit_for_a_call_are_multiplied_with_the_constant_in_a_float_dtype():
    class Hook:
        offload = True

    module = parts(lambda: classes.ScaledEmbedding(40, 64), "w8a16")["it"]
    expected = module(IDS)
    stored = QuantizedEmbedding(40, 64, None, get_preset("w8a16").embedding)
    for name, tensor in module.neutral().items():
        getattr(stored, "weight" if name == "codes" else f"weight_{name}").data = tensor
    visited = pickle.loads(pickle.dumps(module))
    visited._parameters["weight"] = stored.weight
    visited.register_buffer("weight_scale", stored.weight_scale)
    visited._hf_hook = Hook()
    assert visited.weight.dtype == torch.int32
    for _ in range(2):
        assert torch.equal(visited(IDS), expected)
        assert visited._parameters["weight"] is stored.weight


def test_in_inference_mode_its_state_is_read_as_elsewhere():
    model = parts(lambda: classes.ScaledEmbedding(40, 64), "int8")
    with torch.inference_mode():
        assert model.state_dict()["it.weight"].of is model["it"].weight.of


@every_class
def test_outputs_are_replaced_within_what_a_derived_class_does(make, input):
    model = parts(make, "w8a16")
    expected, before = model.it(input), type(model.it)
    taken = []

    def twice(module, args, kwargs, output):
        taken.append(output)
        return 2 * output

    with replaced_output(model.it, twice):
        doubled = model.it(input)
    assert len(taken) == 1
    if type(make()) is classes.NormedEmbedding:  # a norm takes the factor away
        assert torch.allclose(doubled, expected, atol=1e-4)
    else:
        assert torch.allclose(doubled, 2 * expected, atol=1e-5)
    assert type(model.it) is before and torch.equal(model.it(input), expected)
