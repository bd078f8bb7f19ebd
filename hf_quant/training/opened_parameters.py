"""An optimizer that was made before a model's experts were opened, and holds the tensors that there were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_quant.errors import ConfigError
from hf_quant.modules.opened import opened_modules


def take_parts(optimizer: Any, before: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Put the parameters of opened experts where an optimizer has the stacked ones, in its groups.

    Args:
        optimizer: Changed in place.
        before: Parameters of the model by name, as they were when the optimizer was made.
        model: Model whose experts are opened.

    Raises:
        ConfigError: The optimizer has made steps with them already.
    """
    parts = {
        id(before[f"{name}.{stack.name}"]): [module.get_parameter(part) for part in module.parts(stack)]
        for name, module in opened_modules(model)
        for stack in module.stacks
        if f"{name}.{stack.name}" in before
    }
    kept = {id(parameter) for parameter in model.parameters()}  # those of an LSTM are the very same
    parts = {key: found for key, found in parts.items() if key not in kept}
    if any(id(parameter) in parts for parameter in optimizer.state):
        raise ConfigError(
            "the optimizer has states of stacked experts, which are trained one by one: make a new optimizer, or leave "
            "that to the Trainer"
        )
    for group in optimizer.param_groups:
        group["params"] = [each for parameter in group["params"] for each in parts.get(id(parameter), [parameter])]
