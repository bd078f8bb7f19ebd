"""Fake-quantized modules: what they train on, what they evaluate with, and what becomes of them."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CalibrationError, PlanError, WeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.convert import convert, take_out
from hf_quant.qat.modules import FakeQuantized, dequantized
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import fake_quantized_modules, prepare
from tests.modules.derived_classes import ScaledEmbedding, ScaledLinear
from tests.qat.schemes import DYNAMIC, GROUPS, STATIC, WEIGHTS, scheme_with

WIDTH, OUT, VOCABULARY = 64, 48, 32

SCHEMES = {
    **{f"W {name}": Scheme(weight) for name, weight in WEIGHTS.items()},
    **{f"A {name}": scheme_with(input) for name, input in {**DYNAMIC, **STATIC}.items()},
    "bfloat16": Scheme(TensorScheme(format="bfloat", bits=16)),
    "float16": Scheme(TensorScheme(format="float", bits=16)),
}


class Toy(nn.Module):
    """A table, a linear, a Conv1D, and a head that shares the table."""

    def __init__(self, tied=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, WIDTH, padding_idx=1)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.conv = Conv1D(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        nn.init.normal_(self.conv.weight, std=WIDTH**-0.5)
        nn.init.normal_(self.conv.bias)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids):
        hidden = self.table(ids)
        hidden = hidden + self.linear(hidden).tanh()
        return self.head(self.conv(hidden))


IDS = torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
TIES = {"head": "table"}


def prepared(scheme, options=None, ties=TIES):
    """A toy model of which every module has `scheme`; static inputs are observed."""
    model = Toy(tied=bool(ties))
    plan = Plan({name: Scheme(scheme.weight, None if name == "table" else scheme.input) for name in MODULES})
    prepare(model, plan, ties, options)
    quantizers = [m.input_quantizer for _, m in fake_quantized_modules(model) if hasattr(m, "input_quantizer")]
    observers = [quantizer for quantizer in quantizers if hasattr(quantizer, "observing")]
    for quantizer in observers:
        quantizer.observing = True
    if observers:
        model(IDS)
    for quantizer in observers:
        quantizer.observing = False
        quantizer.next_step("input")
        quantizer.initialise("input")
    return model


MODULES = ("table", "linear", "conv", "head")


def train(model, steps=3):
    grids = {id(parameter) for name, parameter in model.named_parameters() if "grid." in name}
    groups = [{"params": [p for p in model.parameters() if (id(p) in grids) is own]} for own in (False, True)]
    groups[1]["lr"] = 1e-6
    optimizer = torch.optim.Adam(groups, lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.roll(1, -1).flatten()).backward()
        optimizer.step()
    return model


def converted(model):
    """Converted, and its weights laid out for kernels."""
    convert(model, TIES)
    for _, module in quantized_modules(model):
        module.check_values("module")
        module.prepare()


def evaluated(model):
    with torch.no_grad():
        return model.eval()(IDS)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("weights", ["lsq", "minmax"])
def test_what_is_evaluated_is_what_conversion_gives_bit_for_bit(scheme, weights):
    model = train(prepared(scheme, QATOptions(weights=weights)))
    before = evaluated(model)
    converted(model)
    for name in MODULES:
        assert isinstance(model.get_submodule(name), QuantizedModule | StoredModule)
    assert model.head.weight is model.table.weight
    assert torch.equal(evaluated(model), before)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_training_computes_what_evaluation_does_to_rounding(scheme):
    model = train(prepared(scheme))
    with torch.no_grad():
        training = model(IDS)
    # One step of an input, where both sides of a tie are reached by rounding, is the most they may differ by.
    tolerance = 5e-2 if scheme.weight.has_scales and scheme.input is not None else 2e-3
    assert (training - evaluated(model)).norm() / training.norm() < tolerance


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES.values() if scheme.weight.has_scales])
def test_weights_of_training_are_those_of_the_converted_module(scheme):
    model = train(prepared(scheme))
    weights = {name: dequantized(module) for name, module in fake_quantized_modules(model)}
    convert(model, TIES)
    assert list(weights) == list(MODULES)
    for name, weight in weights.items():
        assert torch.equal(model.get_submodule(name).dequantized_weight(), weight)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_master_and_every_grid_gets_a_gradient(scheme):
    model = prepared(scheme)
    model(IDS).square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_masters_stay_the_parameters_they_were():
    model = Toy()
    before = dict(model.named_parameters())
    prepare(model, Plan(dict.fromkeys(MODULES, Scheme(GROUPS))), TIES)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert {name.rsplit(".", 1)[-1] for name in set(after) - set(before)} == {"scale", "offset"}
    assert not any(name.startswith("head.weight_quantizer") for name in after), "the table saves the shared grid"


def test_taking_quantization_out_gives_the_float_model_with_trained_masters():
    model = train(prepared(Scheme(GROUPS)))
    masters = [model.table.weight, model.linear.weight, model.conv.weight]
    plain = Toy()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "quantizer" not in name})
    take_out(model)
    assert list(fake_quantized_modules(model)) == [] and type(model.conv) is Conv1D
    restored = [model.table.weight, model.linear.weight, model.conv.weight]
    assert all(after is before for after, before in zip(restored, masters, strict=True))
    assert torch.equal(evaluated(model), evaluated(plain))


@pytest.mark.parametrize("change", ["optimizer", "load", "grid"])
def test_evaluation_follows_every_change(change):
    model = train(prepared(Scheme(GROUPS)))
    before = evaluated(model)
    assert torch.equal(evaluated(model), before)
    other = train(prepared(Scheme(GROUPS)), steps=9)
    with torch.no_grad():
        if change == "optimizer":
            model.linear.weight.add_(0.1)
        elif change == "grid":
            model.linear.weight_quantizer.grid.scale.mul_(1.5)
        else:
            model.load_state_dict(other.state_dict())
    after = evaluated(model)
    assert not torch.equal(after, before)
    converted(model)
    assert torch.equal(evaluated(model), after)


def test_a_copy_is_a_model_of_its_own():
    model = train(prepared(scheme_with(STATIC["static"])))
    before = evaluated(model)
    other = copy.deepcopy(model)
    assert other.head.rounding is other.table.weight_quantizer
    train(other)
    assert torch.equal(evaluated(model), before)
    assert not torch.equal(evaluated(other), before)


def test_a_checkpoint_of_masters_and_grids_goes_on_as_it_was():
    model = train(prepared(scheme_with(STATIC["static asymmetric"])))
    other = prepared(scheme_with(STATIC["static asymmetric"]))
    other.load_state_dict(model.state_dict())
    assert torch.equal(evaluated(other), evaluated(model))


def test_under_autocast_products_are_in_bfloat16_and_grids_in_float32():
    model = prepared(scheme_with(DYNAMIC["token"]))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IDS)
    assert logits.dtype is torch.bfloat16
    logits.float().square().sum().backward()
    assert all(parameter.grad.dtype is torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_converts_to_what_it_evaluates_with(dtype):
    model = prepared(scheme_with(DYNAMIC["token asymmetric"])).to(dtype)
    assert model(IDS).dtype is dtype
    before = evaluated(model)
    converted(model)
    assert evaluated(model).dtype is dtype
    assert torch.equal(evaluated(model), before)


def test_frozen_weights_are_rounded_and_learn_no_grid():
    model = Toy()
    model.linear.requires_grad_(False)
    prepare(model, Plan({"linear": Scheme(GROUPS), "conv": Scheme(GROUPS)}), {})
    model(IDS).sum().backward()
    assert model.linear.weight_quantizer.grid.scale.grad is None
    assert model.conv.weight_quantizer.grid.scale.grad is not None


def test_a_weight_with_nan_leaves_the_model_as_it_was():
    model = Toy()
    with torch.no_grad():
        model.conv.weight[0, 0] = torch.nan
    with pytest.raises(WeightError, match=r"conv\.weight holds NaN"):
        prepare(model, Plan(dict.fromkeys(MODULES, Scheme(GROUPS))), TIES)
    assert not any(isinstance(module, FakeQuantized) for module in model.modules())


def test_a_plan_without_modules_is_refused():
    with pytest.raises(PlanError, match="quantizes no module"):
        prepare(Toy(), Plan({"linear": None}), {})


def test_a_static_input_that_was_never_observed_cannot_be_converted():
    model = Toy()
    prepare(model, Plan({"linear": scheme_with(STATIC["static"])}), {})
    with pytest.raises(CalibrationError, match="no input of linear was observed"):
        convert(model, {})
    assert isinstance(model.linear, FakeQuantized)


def test_a_class_that_multiplies_with_a_constant_does_so_in_training_evaluation_and_after():
    torch.manual_seed(0)
    source = nn.ModuleDict({"table": ScaledEmbedding(VOCABULARY, WIDTH, 1), "linear": ScaledLinear(WIDTH, OUT)})
    plan = Plan(dict.fromkeys(source, Scheme(TensorScheme(bits=8))))
    model = copy.deepcopy(source)
    prepare(model, plan, {})
    assert isinstance(model["table"], ScaledEmbedding) and isinstance(model["table"], FakeQuantized)
    rows = torch.randn(3, WIDTH)
    for training in (True, False):
        model.train(training)
        with torch.set_grad_enabled(training):
            assert torch.allclose(model["table"](IDS), source["table"](IDS), atol=0.1)
            assert torch.allclose(model["linear"](rows), source["linear"](rows), atol=0.1)
    kept = copy.deepcopy(model)
    with torch.no_grad():
        evaluated = model["table"](IDS), model["linear"](rows)
        convert(model, {})
        assert torch.equal(model["table"](IDS), evaluated[0]) and torch.equal(model["linear"](rows), evaluated[1])
    assert isinstance(model["table"], ScaledEmbedding) and isinstance(model["table"], QuantizedModule)
    take_out(kept)
    assert type(kept["table"]) is ScaledEmbedding and vars(kept["table"]).keys() == vars(source["table"]).keys()
    assert torch.equal(kept["table"](IDS), source["table"](IDS))
