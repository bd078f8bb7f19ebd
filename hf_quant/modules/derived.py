"""Classes that models derive from linear and embedding: which compute the same but for what they do around it.

Gemma's embedding multiplies rows with a constant, BART's finds its positions itself, Falcon's linear is one in other
words. A copy in float32 with random weights is run as it is and on a stand-in of its base, which is exact and hides the
weight: what reads the weight itself gets NaN.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from hf_quant.modules.joined import FLOATS, Counterpart, Way, base_of, standing_in

_MAGNITUDES = (1e-4, 1e-2, 1.0, 64.0, 1e4)
_MOST = 2**22
"""Numbers up to which other tensors of a module are drawn for its copy."""
_WIDTHS = (48, 80)
"""Inputs and outputs of a copied linear."""
_ROUNDING = 1e-5

_found: dict[Any, Way | None] = {}


def is_float(module: nn.Module) -> bool:
    """Whether a module is one of `FLOATS` with a weight that may be quantized, or of a class derived from one."""
    if type(module) in FLOATS:
        return _weight(module).ndim == 2
    if not isinstance(module, FLOATS) or isinstance(module, Counterpart):
        return False
    # nn.MultiheadAttention reads the weight of its own linear and never calls it.
    weight = module._parameters.get("weight")
    is_read = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return weight is not None and weight.ndim == 2 and weight.is_floating_point() and not is_read


def way_of(module: nn.Module) -> Way | None:
    """How a counterpart of the base computes for the class of a module; None where it cannot, so that it stays float.

    Args:
        module: `is_float`, on any device; its weights are not read.
    """
    if type(module) in FLOATS:
        return "around"
    shapes = [(name, None if p is None else tuple(p.shape)) for name, p in module._parameters.items()]
    plain = sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float | str | None))
    plain = [(name, value) for name, value in plain if name != "training"]
    key = (type(module), str(shapes), str(plain), str(module._modules))
    if key not in _found:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
            _found[key] = _proved(module)
    return _found[key]


def _proved(module: nn.Module) -> Way | None:
    try:
        known = _copied(module)
        if isinstance(module, nn.Embedding):
            return "around" if _looks_up(known) else None
        if _multiplies(known):
            return "around"
        return "instead" if _is_base(known) else None
    except Exception:  # it needs what a copy has not: no part of the kind
        return None


def _looks_up(known: nn.Module) -> bool:
    """Whether an embedding's own forward gives the same around a look-up, however it is called."""
    taken = False
    for args, kwargs in _calls(known):
        try:
            expected = tree_leaves(type(known).forward(known, *args, **kwargs))
        except Exception:  # it is not called so
            continue
        hidden, seen = _hidden(known)
        found = tree_leaves(type(hidden).forward(hidden, *args, **kwargs))
        if not seen or len(found) != len(expected) or not all(map(_same, found, expected)):
            return False
        taken = True
    return taken


def _calls(known: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Ids of rows, the shape of ids, or an attention mask; with positions and what came before where it takes them."""
    rows = _weight(known).shape[0]
    padding = known.padding_idx if isinstance(known.padding_idx, int) else 0
    ids = torch.tensor([[0, 1, rows // 2, rows - 1], [rows - 1, padding, 0, 1]]).clamp(max=rows - 1)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    positions = torch.tensor([0, 2, 1, 0]).clamp(max=rows - 1)
    takes = inspect.signature(type(known).forward).parameters
    always = {"device": "cpu"} if "device" in takes else {}
    options: tuple[dict[str, Any], ...] = ({}, {"position_ids": positions}, {"past_key_values_length": 1})
    for first in (ids, ids.shape, mask):
        for option in options:
            if option.keys() <= takes.keys():
                yield (first,), always | option


def _multiplies(known: nn.Module) -> bool:
    """Whether a linear's own forward gives the product that its base gives for the same input, times a constant."""
    inputs = _inputs(known)
    hidden, seen = _hidden(known)
    found = type(hidden).forward(hidden, inputs)
    if len(seen) != 1 or not torch.equal(seen[0], inputs):
        return False
    plain = base_of(type(known)).forward(known, inputs)
    factor = (found * plain).sum() / plain.square().sum()
    return bool(factor != 0) and _agree(found, factor * plain)


def _is_base(known: nn.Module) -> bool:
    """Whether a linear computes nothing but what its base does, takes nothing else, and holds nothing else."""
    takes = list(inspect.signature(type(known).forward).parameters.values())
    holds = known._modules or known._buffers or known._parameters.keys() - {"weight", "bias"}
    if holds or len(takes) != 2 or any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in takes):
        return False
    plain = base_of(type(known)).forward
    inputs = _inputs(known)
    for training, given in ((False, inputs), (True, inputs), (False, inputs[0])):
        known.training = training
        if not _agree(type(known).forward(known, given), plain(known, given)):
            return False
    return True


def _inputs(known: nn.Module) -> torch.Tensor:
    """Rows of several magnitudes: around zero, with a mean, of one sign, with an outlier; and zeros."""
    width = _weight(known).shape[0 if isinstance(known, Conv1D) else 1]
    drawn = torch.randn(4, len(_MAGNITUDES), width, dtype=torch.float32)
    drawn[1] += 1.5
    drawn[2].abs_()
    drawn[3, :, 0] *= 1000.0
    return torch.cat([drawn * torch.tensor(_MAGNITUDES).view(-1, 1), torch.zeros(4, 1, width)], 1)


def _weight(module: nn.Module) -> torch.Tensor:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight


def _same(found: Any, expected: Any) -> bool:
    if not isinstance(expected, torch.Tensor):
        return bool(found == expected)
    return found.dtype == expected.dtype and bool(expected.isfinite().all()) and torch.equal(found, expected)


def _agree(found: Any, expected: torch.Tensor) -> bool:
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    # A NaN compares as false.
    return bool(((found - expected).abs() <= _ROUNDING * expected.abs().amax(-1, keepdim=True)).all())


def _hidden(known: nn.Module) -> tuple[nn.Module, list[torch.Tensor]]:
    """A module like `known` that computes on a weight which it does not show, and a list of what it will be given."""
    seen: list[torch.Tensor] = []

    def product(input: torch.Tensor) -> Any:
        seen.append(input)
        return base_of(type(known)).forward(known, input)

    made = standing_in(type(known), known, product)
    nothing = torch.full((1, 1), torch.nan, dtype=torch.float32)
    face = nn.Parameter(nothing.expand(_weight(known).shape), requires_grad=False)
    made._parameters = {**known._parameters, "weight": face}
    return made, seen


def _copied(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode with random tensors: a table of as many rows, in little memory; small linears."""
    rest = sum(each.numel() for each in (*module.parameters(), *module.buffers()) if each is not module.weight)
    if rest > _MOST:
        raise ValueError("more tensors than are worth drawing")
    copied = nn.Module.__new__(type(module))
    copied.__dict__ = dict(module.__dict__)
    copied._parameters = {
        name: None if p is None else _drawn(p) for name, p in module._parameters.items() if name != "weight"
    }
    copied._buffers = {name: None if b is None else _drawn(b).data for name, b in module._buffers.items()}
    copied._modules = {name: None if child is None else _child(child) for name, child in module._modules.items()}
    width, rows = _WIDTHS
    if isinstance(module, nn.Embedding):
        # Rows overlap in memory, and no two are equal.
        shape = _weight(module).shape
        weight = torch.randn(sum(shape), dtype=torch.float32).as_strided(shape, (1, 1))
    else:
        weight = torch.randn(rows, width, dtype=torch.float32)
        if module._parameters.get("bias") is not None:
            copied._parameters["bias"] = nn.Parameter(torch.randn(rows, dtype=torch.float32), requires_grad=False)
        weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
        copied.__dict__ |= {"nx": width, "nf": rows} if isinstance(module, Conv1D) else {}
        copied.__dict__ |= {"in_features": width, "out_features": rows} if isinstance(module, nn.Linear) else {}
    copied._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    copied.training = False
    return copied


def _drawn(tensor: torch.Tensor) -> nn.Parameter:
    if not tensor.is_floating_point():
        return nn.Parameter(torch.zeros(tensor.shape, dtype=tensor.dtype), requires_grad=False)
    return nn.Parameter(torch.rand(tensor.shape, dtype=torch.float32) + 0.5, requires_grad=False)


def _child(module: nn.Module) -> nn.Module:
    made = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.data = _drawn(tensor).data
    return made
