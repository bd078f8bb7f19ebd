"""Which modules are a convolution that can be opened."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from hf_quant.modules.convolution import CLASSES
from hf_quant.modules.ties import shared_parameters


def convolutions(model: nn.Module) -> set[nn.Module]:
    """Convolutions of torch, or of classes derived from them that compute as they do, whose weights no other has."""
    holders = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    tied = {name.rpartition(".")[0] for group in shared_parameters(model) for name in group}
    return {
        module
        for name, module in model.named_modules()
        if _is_convolution(module)
        and name not in tied  # it may be so only once the model is loaded
        and all(holders[id(parameter)] == 1 for parameter in module.parameters())
    }


def _is_convolution(module: nn.Module) -> bool:
    base: Any = next((each for each in CLASSES if isinstance(module, each)), None)
    kind: Any = type(module)
    if base is None or {"forward", "_conv_forward"} & vars(module).keys() or module._modules:
        return False
    if kind.forward is not base.forward or kind._conv_forward is not base._conv_forward:
        return False
    # One whose weight is made of other parameters for each call has none of this name.
    weight = module._parameters.get("weight")
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or not weight.numel():
        return False
    # Others may have cut channels off, or changed numbers that torch does not look at.
    sizes: Any = (module.out_channels, module.in_channels, module.groups)
    return (weight.shape[0], weight.shape[1] * sizes[2]) == sizes[:2]
