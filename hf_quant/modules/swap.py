"""Float modules out, quantized modules in, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.plan import Candidate, Plan
from hf_quant.config.scheme import Scheme
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.stored import StoredConv1D, StoredEmbedding, StoredLinear, StoredModule

Build = Callable[..., nn.Module]


def _quantized_linear(module: nn.Linear, scheme: Scheme, tied: bool, device: torch.device) -> nn.Module:
    sizes = (module.in_features, module.out_features, module.bias is not None)
    return QuantizedLinear(*sizes, scheme, tied, device, module.weight.dtype)


def _quantized_conv1d(module: Conv1D, scheme: Scheme, tied: bool, device: torch.device) -> nn.Module:
    width, rows = module.weight.shape
    return QuantizedConv1D(width, rows, True, scheme, tied, device, module.weight.dtype)


def _quantized_embedding(module: nn.Embedding, scheme: Scheme, tied: bool, device: torch.device) -> nn.Module:
    sizes = (module.num_embeddings, module.embedding_dim, module.padding_idx)
    return QuantizedEmbedding(*sizes, scheme, tied, device, module.weight.dtype)


def _stored(stored_class: type[StoredModule]) -> Build:
    def build(module: nn.Module, scheme: Scheme, tied: bool, device: torch.device) -> nn.Module:
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
}
"""Float class to the builders of its integer and its float-stored counterpart. Subclasses are left alone: they may
compute something else."""


def candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every module that can be quantized, by name.

    Linears outside the base model (``model.base_model_prefix``) are heads: they make the model's output.
    """
    prefix = getattr(model, "base_model_prefix", "")
    base = f"{prefix}." if prefix and hasattr(model, prefix) else None
    found = {}
    for name, module in model.named_modules():
        if type(module) not in SWAPS or not name:
            continue
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        if weight.ndim != 2:
            continue
        width = int(weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1])
        is_head = base is not None and not name.startswith(base)
        kind = "embedding" if isinstance(module, nn.Embedding) else "head" if is_head else "linear"
        found[name] = Candidate(kind, width)
    return found


def tied_modules(model: nn.Module) -> dict[str, str]:
    """Module whose weight belongs to another one, to that other one: ``{"lm_head": "model.embed_tokens"}``."""
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    ties = {
        target.removesuffix(".weight"): source.removesuffix(".weight")
        for target, source in declared.items()
        if target.endswith(".weight")
    }
    first: dict[int, str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(module) in SWAPS and isinstance(weight, nn.Parameter) and not weight.is_meta:
            source = first.setdefault(id(weight), name)
            if source != name and name not in ties and ties.get(source) != name:
                ties[name] = source
    return ties


def swap(model: nn.Module, plan: Plan, ties: dict[str, str], device: torch.device | str | None = None) -> None:
    """Replace the modules that `plan` names by quantized ones with uninitialised tensors, in place.

    Args:
        model: Changed in place.
        plan: Resolved for this model.
        ties: From `tied_modules`, before anything was replaced.
        device: Where new tensors are made; None keeps each module's own device.
    """
    for name, scheme in plan.modules.items():
        if scheme is None:
            continue
        module = model.get_submodule(name)
        build = SWAPS[type(module)][0 if scheme.weight.is_integer else 1]
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        replacement = build(module, scheme, name in ties, weight.device if device is None else device)
        replacement.train(module.training)
        model.set_submodule(name, replacement)


def share_tied(model: nn.Module, ties: dict[str, str]) -> None:
    """Let each tied module read weight and scale of the module it is tied to."""
    for target_name, source_name in ties.items():
        target, source = model.get_submodule(target_name), model.get_submodule(source_name)
        if isinstance(target, QuantizedModule) and isinstance(source, QuantizedModule):
            target.share(source)
        elif isinstance(target, StoredModule) and isinstance(source, StoredModule):
            target.weight = source.weight


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, QuantizedModule]]:
    """Modules on integer codes, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedModule))


def restore_float(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every quantized module by the float module it stands for, in place; ties are kept.

    Args:
        model: Changed in place.
        dtype: Of the restored weights.
    """
    ties = {name: source for name, source in _current_ties(model).items()}
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedModule | StoredModule):
            model.set_submodule(name, _float_module(module, dtype))
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
    return restored.train(module.training)
