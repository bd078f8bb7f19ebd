"""Float modules out, quantized modules in, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.derived import way_of
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.filters import Filters
from hf_quant.modules.joined import FLOATS, Counterpart, as_derived, as_float, base_of
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.quantized_filters import QuantizedFilters
from hf_quant.modules.stored import StoredConv1D, StoredEmbedding, StoredFilters, StoredLinear, StoredModule

Build = Callable[..., Counterpart]


def _quantized_linear(module: nn.Linear, scheme: Scheme, tied: bool, device: torch.device) -> Counterpart:
    # Of the weight: Transformers resizes some heads without a word to their out_features.
    rows, width = module.weight.shape
    return QuantizedLinear(width, rows, module.bias is not None, scheme, tied, device, module.weight.dtype)


def _quantized_conv1d(module: Conv1D, scheme: Scheme, tied: bool, device: torch.device) -> Counterpart:
    width, rows = module.weight.shape
    return QuantizedConv1D(width, rows, True, scheme, tied, device, module.weight.dtype)


def _quantized_embedding(module: nn.Embedding, scheme: Scheme, tied: bool, device: torch.device) -> Counterpart:
    rows, width = module.weight.shape
    return QuantizedEmbedding(rows, width, module.padding_idx, scheme, tied, device, module.weight.dtype)


def _sizes(module: Filters) -> tuple[int, tuple[int, ...], int]:
    return module.weight.shape[0], module.kernel_size, module.channels


def _quantized_filters(module: Filters, scheme: Scheme, tied: bool, device: torch.device) -> Counterpart:
    return QuantizedFilters(*_sizes(module), scheme, tied, device, module.weight.dtype)


def _stored(stored_class: type[StoredModule]) -> Build:
    def build(module: nn.Module, scheme: Scheme, tied: bool, device: torch.device) -> Counterpart:
        # The same attributes under another class: nothing of the float module is lost or repeated here.
        stored = stored_class.__new__(stored_class)
        nn.Module.__init__(stored)
        state = {k: v.copy() if isinstance(v, dict | set) else v for k, v in module.__dict__.items()}
        stored.__dict__.update(state)
        stored.store_as(scheme, device)
        return stored

    return build


SWAPS: dict[type[nn.Module], tuple[Build, Build]] = {
    nn.Linear: (_quantized_linear, _stored(StoredLinear)),
    Conv1D: (_quantized_conv1d, _stored(StoredConv1D)),
    nn.Embedding: (_quantized_embedding, _stored(StoredEmbedding)),
    Filters: (_quantized_filters, _stored(StoredFilters)),
}
"""Float class to the builders of its counterparts, the one on codes and the one that stores floats."""


def counterpart(module: nn.Module, made: Counterpart) -> Counterpart:
    """A counterpart of one of `FLOATS`, which is of the class of the float module as well where that is a derived one.

    Args:
        module: Float, of a class that `way_of` knows a way for.
        made: Counterpart of the base of that class; changed in place.

    Raises:
        UnsupportedModel: There is no way.
    """
    if type(module) in FLOATS:
        return made
    way = way_of(module)
    if way is None:
        raise UnsupportedModel(f"{type(module).__name__} computes something else than its base: keep it float")
    return as_derived(made, module, way)


class Places:
    """Where each module of a model is, found once for many exchanges.

    Some modules call their children by a list of their own, as MaskFormer's heads do: that is a place, too.

    Args:
        model: Only `exchange`, with this, changes its modules while this is in use.
    """

    def __init__(self, model: nn.Module):
        self._parents: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()
        self._attributes: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, str]]] = WeakKeyDictionary()
        for parent in model.modules():
            self.add(parent)

    def add(self, parent: nn.Module) -> None:
        """Take note of the modules that one holds."""
        for child in parent._modules.values():
            if child is not None:
                self._parents.setdefault(child, []).append(parent)
        for name, value in parent.__dict__.items():
            if name not in _OF_EVERY_MODULE and isinstance(value, nn.Module | list | tuple | dict):
                for child in _modules_in(value):
                    self._attributes.setdefault(child, []).append((parent, name))

    def put(self, child: nn.Module, replacement: nn.Module) -> None:
        """Let `replacement` be wherever `child` is."""
        for parent in self._parents[child]:
            parent._modules.update({key: replacement for key, each in parent._modules.items() if each is child})
        for parent, name in self._attributes.get(child, ()):
            parent.__dict__[name] = _exchanged(parent.__dict__[name], child, replacement)
            self._attributes.setdefault(replacement, []).append((parent, name))


_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)


def _modules_in(value: object) -> Iterator[nn.Module]:
    """Modules in an attribute: it, or what lists, tuples and dicts hold."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(each)


def _exchanged(value: Any, child: nn.Module, replacement: nn.Module) -> Any:
    """`value` with one module for another; lists and dicts are changed in place."""
    if value is child:
        return replacement
    if isinstance(value, list):
        value[:] = [_exchanged(each, child, replacement) for each in value]
    elif isinstance(value, dict):
        value.update({key: _exchanged(each, child, replacement) for key, each in value.items()})
    elif type(value) is tuple:
        return tuple(_exchanged(each, child, replacement) for each in value)
    return value


def swap(
    model: nn.Module,
    plan: Plan,
    ties: dict[str, str],
    device: torch.device | str | None = None,
    places: Places | None = None,
) -> None:
    """Replace the modules that `plan` names by quantized ones with uninitialised tensors, in place.

    Args:
        model: Changed in place.
        plan: Resolved for this model.
        ties: Tied module to the owner of its weight, from an `Inventory` made before anything was replaced.
        device: Where new tensors are made; None keeps each module's own device.
        places: Places of the modules, where they are known; None: found out.
    """
    replacements = {}
    for name, scheme in plan.modules.items():
        if scheme is None:
            continue
        module = model.get_submodule(name)
        build = SWAPS[base_of(type(module))][0 if scheme.weight.has_scales else 1]
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        made = build(module, scheme, name in ties, weight.device if device is None else device)
        replacements[name] = counterpart(module, made).train(module.training)
    exchange(model, replacements, places)


def exchange(model: nn.Module, replacements: Mapping[str, nn.Module], places: Places | None = None) -> None:
    """Put other modules in the places of those with these names, in place: in all, where one has several names."""
    places = Places(model) if places is None else places
    for replacement in replacements.values():
        places.add(replacement)
    for child, replacement in [(model.get_submodule(name), each) for name, each in replacements.items()]:
        places.put(child, replacement)


def share_tied(model: nn.Module, ties: dict[str, str]) -> None:
    """Let each tied module read weight and scale of the module it is tied to."""
    for target_name, source_name in ties.items():
        target, source = model.get_submodule(target_name), model.get_submodule(source_name)
        if isinstance(target, QuantizedModule) and isinstance(source, QuantizedModule):
            target.share(source)
        elif isinstance(target, StoredModule) and isinstance(source, StoredModule):
            target.weight = source.weight


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, QuantizedModule]]:
    """Modules on codes, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedModule))


def restore_float(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every quantized module by the float module it stands for, in place; ties are kept.

    Args:
        model: Changed in place.
        dtype: Dtype of the restored weights.
    """
    ties = _current_ties(model)
    stored = [(n, module) for n, module in model.named_modules() if isinstance(module, QuantizedModule | StoredModule)]
    exchange(model, {name: _float_module(module, dtype) for name, module in stored})
    for target, source in ties.items():
        model.get_submodule(target).weight = model.get_submodule(source).weight


def _current_ties(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    ties = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule | StoredModule):
            source = first.setdefault(id(module.weight), name)
            if source != name:
                ties[name] = source
    return ties


def _float_module(module: QuantizedModule | StoredModule, dtype: torch.dtype) -> nn.Module:
    weight = module.dequantized_weight() if isinstance(module, QuantizedModule) else module.weight.data
    restored: nn.Module
    with torch.device("meta"):
        if isinstance(module, nn.Embedding):
            restored = nn.Embedding(module.num_embeddings, module.embedding_dim, module.padding_idx)
        elif isinstance(module, Filters):
            restored = Filters(*_sizes(module))
        elif isinstance(module, QuantizedConv1D | Conv1D):
            restored = Conv1D(module.nf, module.nx)
            weight = weight.t().contiguous() if isinstance(module, QuantizedModule) else weight
        else:
            assert isinstance(module, nn.Linear)
            restored = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    restored.weight = nn.Parameter(weight.to(dtype))
    bias = getattr(module, "bias", None)
    if bias is not None:
        restored.bias = nn.Parameter(bias.data.to(dtype))
    return as_float(restored, module).train(module.training)
