"""What modules of a model are as float modules, by which targets tell whether they have operators for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hf_quant.modules.convolution import OpenedConvolution
from hf_quant.modules.experts import ExpertLayer
from hf_quant.modules.joined import FLOATS, base_of
from hf_quant.modules.opened import Opened, opened_modules


def made_as(model: nn.Module, classes: Mapping[str, type[nn.Module]]) -> dict[str, str]:
    """What modules are made as, in the words of `facts.Part`.

    Args:
        model: Opened where it was, or is to be, quantized.
        classes: Names of modules to the classes of the float ones.
    """
    opened = {name: _opened_as(each) for name, each in opened_modules(model)}
    return {
        name: next((kind for outer, kind in opened.items() if name.startswith(f"{outer}.")), None) or _by_class(kind)
        for name, kind in classes.items()
    }


def _by_class(float_class: type[nn.Module]) -> str:
    base = base_of(float_class)
    if issubclass(base, nn.Embedding):
        return "embedding"
    if float_class not in FLOATS:
        return "derived"
    return "linear" if issubclass(base, nn.Linear) else "conv1d"


def _opened_as(module: Opened) -> str:
    if isinstance(module, ExpertLayer):
        return "experts"
    return "convolution" if isinstance(module, OpenedConvolution) else "recurrent"
