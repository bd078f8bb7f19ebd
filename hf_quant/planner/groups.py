"""Linears that a runtime computes together, so that a plan had better treat them alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.modules.inventory import Inventory


@torch.no_grad()
def fusion_groups(model: Any, example: Mapping[str, Any], inventory: Inventory) -> dict[str, str]:
    """Groups of linears that share one input and one parent, such as query, key and value, or gate and up.

    One forward pass finds them; names do not matter. What is found of any expert is said of the layer's first.

    Args:
        model: Float model, opened; it is left unchanged.
        example: Keyword arguments to call the model with.
        inventory: The model's inventory.

    Returns:
        Name of each linear in a group to the name of the group's first linear.
    """
    names = [name for name, candidate in inventory.candidates.items() if candidate.kind in ("linear", "head")]
    # Inputs are kept, so that no two of them have one address.
    seen: dict[tuple[str, int], list[str]] = {}
    kept: list[Tensor] = []

    def hook(name: str) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                kept.append(args[0])
                members = seen.setdefault((name.rpartition(".")[0], id(args[0])), [])
                if name not in members:
                    members.append(name)

        return watch

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    training = model.training
    model.eval()
    try:
        model(**example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    first = {name: inventory.experts.get(name, name) for name in names}
    return {first[name]: first[members[0]] for members in seen.values() if len(members) > 1 for name in members}
