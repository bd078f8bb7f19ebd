"""State dicts of quantized modules: as they are in memory, as they lie on disk, and with floats of other libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.modules.tensor import QuantizedTensor
from hf_quant.modules.weight import Weight, stored_name


def stored_state(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict as it goes to disk: quantized weights as their tensors, each once, under the name of who saves it.

    Args:
        module: Whose state it is.
        state: Full name to tensor, as ``module.state_dict()`` gives them; not changed.
    """
    holders = [
        (f"{name}.{parameter}".removeprefix("."), child)
        for name, child in module.named_modules(remove_duplicate=False)
        if isinstance(getattr(child, "weights", None), dict)
        for parameter in child.weights
    ]
    firsts = {name for name, _ in module.named_modules()}
    # A module with several names is saved under its first, and a tied one by its owner.
    others = {name for name, child in holders if child.tied or name.rpartition(".")[0] not in firsts}
    quantized = {name: tensor for name, tensor in state.items() if isinstance(tensor, QuantizedTensor)}
    saved = {tensor.of for name, tensor in quantized.items() if name not in others}
    split: dict[str, Any] = {}
    for name, tensor in state.items():
        if name not in quantized:
            # Floats of opened experts may be views with strides, which no file holds.
            split[name] = tensor.contiguous() if isinstance(tensor, torch.Tensor) else tensor
        elif name not in others or tensor.of not in saved:  # the owner may be outside of a part that is saved alone
            saved.add(tensor.of)
            split.update((stored_name(name, key), value) for key, value in tensor.of.neutral().items())
    return split


def take_state(
    weight: Weight, parameter: str, state: dict[str, Any], missing: list[str], errors: list[str]
) -> dict[str, Any]:
    """Load a weight from a state dict that holds no `QuantizedTensor` under its name.

    Args:
        weight: Changed in place, for all who hold it.
        parameter: Its full name.
        state: Holds its tensors as they lie on disk; or floats, which must be what it decodes to, as they are in files
            of libraries that know no codes.
        missing: Gets the names that are not there.
        errors: Gets what is wrong.

    Returns:
        The rest of `state`.
    """
    given = state[parameter]
    if given.is_floating_point() and tuple(given.shape) == (weight.rows, weight.width):
        if not torch.equal(given.float(), weight.dequantize().to(given.dtype).float()):
            errors.append(f"{parameter} is quantized and stands for other numbers than the floats that are given")
        return {name: tensor for name, tensor in state.items() if name != parameter}
    names = {stored_name(parameter, name): name for name in weight.facts}
    found = {name: state[full] for full, name in names.items() if full in state}
    wrong = [
        f"{stored_name(parameter, name)} should be {dtype} {list(shape)}"
        for name, (shape, dtype) in weight.facts.items()
        if name in found and (tuple(found[name].shape) != shape or found[name].dtype != dtype)
    ]
    errors.extend(wrong)
    missing.extend(full for full, name in names.items() if name not in found)
    if not wrong and len(found) == len(names):
        weight.replace({name: tensor.detach().to(weight.device, copy=True) for name, tensor in found.items()})
    return {name: tensor for name, tensor in state.items() if name not in names}


def cast_floats(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast all floats of a module in place, and nothing else: of complex numbers ``Module.to`` keeps the real part.

    Args:
        module: On any device; of rotary positions, for instance, some hold complex numbers.
        dtype: A dtype of floats.
    """
    module._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
