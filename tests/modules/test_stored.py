"""Stored floats: the weight keeps its format whatever the model is cast to."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Plan
from hf_quant.config.presets import get_preset
from hf_quant.modules.stored import StoredConv1D, StoredEmbedding, StoredLinear
from hf_quant.modules.swap import restore_float
from tests.quantized_linear import DTYPES
from tests.quantized_modules import COPIES, quantize

STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
KINDS = {"linear": StoredLinear, "conv": StoredConv1D, "embed": StoredEmbedding}
INPUTS = {
    "linear": torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)),
    "conv": torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)),
    "embed": torch.tensor([[1, 2], [0, 9]]),
}
every_format = pytest.mark.parametrize("name", STORED)
every_kind = pytest.mark.parametrize("kind", KINDS)


def floats():
    torch.manual_seed(0)
    return nn.ModuleDict({"linear": nn.Linear(8, 6), "conv": Conv1D(6, 8), "embed": nn.Embedding(10, 8, padding_idx=1)})


def stored(name):
    scheme = get_preset(name).linear
    return quantize(floats(), Plan(dict.fromkeys(KINDS, scheme)))


@every_format
@every_kind
def test_weights_are_rounded_to_the_format_and_kept_there(name, kind):
    model, source = stored(name), floats()
    assert type(model[kind]) is KINDS[kind]
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        model.to(dtype)
        assert model[kind].weight.dtype == STORED[name]
        assert torch.equal(model[kind].weight, source[kind].weight.to(STORED[name]))
        bias = getattr(model[kind], "bias", None)
        assert bias is None or bias.dtype == dtype


@every_format
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_are_computed_in_the_stored_format_and_given_in_that_of_the_input(name, kind, dtype):
    module, source = stored(name)[kind], floats()[kind]
    weight = source.weight if kind == "linear" else source.weight.t()
    cast = [tensor.to(STORED[name]) for tensor in (INPUTS[kind].to(dtype), weight, source.bias)]
    output = module(INPUTS[kind].to(dtype))
    assert output.dtype == dtype and torch.equal(output, nn.functional.linear(*cast).to(dtype))


@every_format
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_looked_up_in_the_dtype_of_the_model(name, dtype):
    model = stored(name).to(dtype)
    rows = model["embed"](INPUTS["embed"])
    expected = floats()["embed"].weight.to(STORED[name])[INPUTS["embed"]].to(dtype)
    assert rows.dtype == dtype and torch.equal(rows, expected)


@every_format
@every_kind
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_copies_give_identical_outputs(name, kind, duplicate):
    module = stored(name).bfloat16()[kind]
    twin = duplicate(module)
    input = INPUTS[kind] if kind == "embed" else INPUTS[kind].bfloat16()
    assert torch.equal(twin(input), module(input))
    assert twin.float().weight.dtype == STORED[name]


@every_format
@every_kind
def test_state_dicts_look_like_those_of_the_float_module(name, kind):
    module = stored(name)[kind]
    assert list(module.state_dict()) == list(floats()[kind].state_dict())
    other = stored(name)[kind]
    other.weight.data.zero_()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(INPUTS[kind]), module(INPUTS[kind]))


@every_format
def test_restoring_gives_the_float_classes_back(name):
    model, source = stored(name), floats()
    restore_float(model, torch.float32)
    for kind in KINDS:
        assert type(model[kind]) is type(source[kind])
        assert model[kind].weight.shape == source[kind].weight.shape and model[kind].weight.dtype == torch.float32
        assert torch.equal(model[kind].weight, source[kind].weight.to(STORED[name]).float())
    assert model["embed"].padding_idx == 1


def test_the_float_module_is_not_changed_by_being_stored():
    source = floats()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    modules = dict(source.items())
    quantize(source, Plan(dict.fromkeys(KINDS, get_preset("fp16").linear)))
    for kind, module in modules.items():
        assert type(module) not in KINDS.values() and "output_like" not in module._non_persistent_buffers_set
        assert module.weight.dtype == torch.float32 and torch.equal(module.weight, before[f"{kind}.weight"])


def test_a_slice_of_a_batch_makes_no_copies_of_the_weight():
    class Called(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    model = nn.ModuleDict({"head": nn.Linear(8, 6, bias=False)})
    module = quantize(model, Plan({"head": get_preset("bf16").linear}))["head"]
    batch = torch.randn(1, 128, 8)
    with torch.no_grad(), Called() as calls:
        found = module(batch[:, -1:, :])
    assert not any("bmm" in name for name in calls.names)
    torch.testing.assert_close(found, module(batch[:, -1]).view(1, 1, 6), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("shape", [(8,), (0, 8), (2, 0, 8), (3, 8)])
def test_batches_of_any_shape_are_computed(kind, shape):
    assert stored("bf16")[kind](torch.randn(shape)).shape == (*shape[:-1], 6)
