"""Which modules are an LSTM or a GRU that can be opened."""

from __future__ import annotations

from torch import nn

from hf_quant.modules.recurrent import CLASSES


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is exactly torch's LSTM or GRU, with its parameters, and nobody has exchanged its `forward`."""
    if type(module) not in CLASSES or "forward" in vars(module) or module._modules:
        return False
    return list(module._parameters) == getattr(module, "_flat_weights_names", None) and all(
        parameter is not None for parameter in module._parameters.values()
    )
