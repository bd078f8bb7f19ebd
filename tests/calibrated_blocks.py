"""Blocks of tiny models with what calibration knows of them: real inputs, pairs and statistics."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from hf_quant.calibration.pairs import find_pairs
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.calibration.tracing import is_linear
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.formats import format_of
from tests.integration.tiny import LAYERS, error, tiny_model, token_ids
from tests.quantized_modules import quantize

PREFIXES = {"bert": "bert.encoder.layer", "gpt2": "transformer.h"}
IDS = token_ids(rows=4, length=32)

PER_TOKEN = TensorScheme(granularity="token", dynamic=True)
W8A8 = Scheme(TensorScheme(), PER_TOKEN)
W4 = Scheme(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32))


@dataclass
class Block:
    """One block: the module, what it was called with, and the statistics of its linears' inputs, by name."""

    module: nn.Module
    args: tuple
    kwargs: dict
    inputs: dict[str, InputStatistics]

    def pairs(self):
        return find_pairs(self.module, self.args, self.kwargs)

    def schemes(self, scheme):
        return dict.fromkeys(self.inputs, scheme)

    @torch.no_grad()
    def output(self, module=None):
        result = (module or self.module)(*self.args, **self.kwargs)
        return result[0] if isinstance(result, tuple) else result

    def quantized_error(self, scheme, expected):
        """Relative error of the block on quantized modules, rounded to nearest; static scales are of `inputs`."""
        found = quantize(copy.deepcopy(self.module), Plan(self.schemes(scheme)))
        if scheme.input is not None and not scheme.input.dynamic:
            for name, inputs in self.inputs.items():
                largest = inputs.max_abs.amax()
                scale, _ = format_of(scheme.input).scale_and_zero_point(-largest, largest)
                module = found.get_submodule(name)
                module.input_scale.data = scale.view(1)
                module.forget()
                module.prepare()
        return error(self.output(found), expected)


def statistics(rows):
    """Those of inputs ``[tokens, width]``."""
    rows = rows.float()
    magnitudes = rows.abs()
    hessian = rows.T @ rows / len(rows)
    return InputStatistics(len(rows), rows.mean(0), magnitudes.mean(0), magnitudes.amax(0), hessian)


def capture(model, names):
    """`Block` of each of `names`, from one run of the model."""
    calls, rows, handles = {}, {}, []
    for name in names:
        block = model.get_submodule(name)
        keep = lambda _, args, kwargs, name=name: calls.__setitem__(name, (args, kwargs))  # noqa: E731
        handles.append(block.register_forward_pre_hook(keep, with_kwargs=True))
        for child, module in block.named_modules():
            if is_linear(module):
                see = lambda _, args, key=(name, child): rows.__setitem__(key, args[0].flatten(0, -2))  # noqa: E731
                handles.append(module.register_forward_pre_hook(see))
    logits(model)
    for handle in handles:
        handle.remove()
    return {
        name: Block(
            model.get_submodule(name),
            *calls[name],
            {child: statistics(seen) for (block, child), seen in rows.items() if block == name},
        )
        for name in names
    }


def blocks_of(model, family):
    """Every block of a tiny model, in order."""
    prefix = PREFIXES.get(family, "model.layers")
    return list(capture(model, [f"{prefix}.{index}" for index in range(LAYERS)]).values())


def first_block(family, prepare=None, **changes):
    """The first block of a tiny model, which `prepare` may change before it is run."""
    model = tiny_model(family, **changes)
    name = PREFIXES.get(family, "model.layers") + ".0"
    if prepare is not None:
        with torch.no_grad():
            prepare(model.get_submodule(name))
    return capture(model, [name])[name]


@torch.no_grad()
def logits(model):
    """On ids that no other test is about."""
    arguments = {} if model.config.model_type == "bert" else {"use_cache": False}
    return model(input_ids=IDS, **arguments).logits
