"""Real quantized modules for tests, and a model that has one of each kind and a tie."""

import copy
import io
import pickle

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.plan import preset_plan
from hf_quant.formats import format_of
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import quantized_modules, share_tied, swap
from hf_quant.modules.weight import stored_name
from tests.quantized_linear import make_operands


def make_linear(spec, prepare=True, seed=0, dtype=torch.float32, cls=QuantizedLinear):
    """A quantized linear with the operands that `make_operands` gives."""
    module = cls(spec.in_features, spec.out_features, True, spec.scheme, dtype=dtype)
    operands = make_operands(spec, seed=seed, dtype=dtype)
    module.bias.data = operands.bias
    for name, tensor in operands.weight.items():
        getattr(module, stored_name("weight", name)).data = tensor
    for name in ("input_scale", "input_zero_point"):
        if getattr(operands, name) is not None:
            getattr(module, name).data = getattr(operands, name)
    if prepare:
        module.prepare()
    return module


class Body(nn.Module):
    """Embedding, linear and Conv1D."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(96, 64, padding_idx=3)
        self.linear = nn.Linear(64, 64)
        self.conv = Conv1D(128, 64)
        self.norm = nn.LayerNorm(128)

    def forward(self, ids):
        return self.norm(self.conv(self.linear(self.embed(ids))))


class Model(nn.Module):
    """A body and a head that is tied to its embedding."""

    base_model_prefix = "body"

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = Body()
            self.down = nn.Linear(128, 64, bias=False)
            self.head = nn.Linear(64, 96, bias=False)
        self.head.weight = self.body.embed.weight
        self.eval()

    def forward(self, ids):
        return self.head(self.down(self.body(ids)))


IDS = torch.tensor([[1, 2, 3, 95], [0, 7, 7, 50]])


REACH = torch.tensor(3.5)
"""No input of `Model` is further from 0."""


def fill(module, source):
    """Weights of the float module `source`, as codes or stored floats, in `module`; static grids reach `REACH`."""
    if getattr(source, "bias", None) is not None:
        module.bias.data.copy_(source.bias.data)
    weight = source.weight.data
    if isinstance(module, StoredModule):
        module.weight.data.copy_(weight)
    else:
        weight = weight.t() if isinstance(module, QuantizedConv1D) else weight
        solved = RoundToNearest().solve(weight, module.spec.scheme.weight, "weight")
        module.fill(solved)
        if module.input_scale is not None:
            scale, zero_point = format_of(module.spec.scheme.input).scale_and_zero_point(-REACH, REACH)
            module.input_scale.fill_(scale)
            if zero_point is not None:
                module.input_zero_point.fill_(zero_point)


def quantize(model, plan):
    """`model`, float, with the modules of `plan` swapped, filled, tied and laid out; in place."""
    ties = Inventory.of(model).ties
    sources = {name: model.get_submodule(name) for name, scheme in plan.modules.items() if scheme is not None}
    swap(model, plan, ties)
    for name, source in sources.items():
        if name not in ties:
            fill(model.get_submodule(name), source)
        assert isinstance(model.get_submodule(name), QuantizedModule | StoredModule)
    share_tied(model, ties)
    for _, module in quantized_modules(model):
        module.prepare()
    return model


def quantized_model(preset, seed=0):
    """The model under a preset."""
    model = Model(seed)
    return quantize(model, preset_plan(preset, Inventory.of(model).candidates))


def saved_and_loaded(value):
    """Through ``torch.save`` and ``torch.load``."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": saved_and_loaded,
}
