"""Which modules are experts stacked in tensors, and how: guessed by structure, proved by running both ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.agreement import agree, output, rows
from hf_quant.modules.experts import OpenedExperts, Stack, open_experts

_CHOSEN = 2
_DRAWN = 2**22
"""Numbers of a stack up to which all experts of a copy get weights of their own."""
_SCALES = (0.1, 1.0, 8.0, 100.0)
_TOLERANCE = 1e-4
"""Sums of both ways differ in their order."""


class Layout(NamedTuple):
    """How a module holds its experts, and what it does with them; see `open_experts`."""

    stacks: tuple[Stack, ...]
    experts: int
    apply_gate: bool
    passes_on: bool


_found: dict[Any, Layout | None] = {}


def layout_of(module: nn.Module) -> Layout | None:
    """The layout by which a module computes; None where it holds no stacked experts, or computes something else.

    Args:
        module: On any device; its weights are not read.
    """
    guesses = list(_guesses(module))
    if not guesses:
        return None
    shapes = tuple((name, tuple(p.shape)) for name, p in module._parameters.items() if p is not None)
    plain = sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float | str | None))
    key = (type(module), shapes, str(plain), str(module._modules))
    if key not in _found:
        _found[key] = next((layout for layout in guesses if _proved(module, layout)), None)
    return _found[key]


def _guesses(module: nn.Module) -> Iterator[Layout]:
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    first = next((name for name in ("gate_up_proj", "up_proj") if name in parameters), None)
    weights = (first, "down_proj")
    biases = tuple(f"{name}_bias" for name in weights)
    if first is None or set(parameters) not in ({*weights}, {*weights, *biases}) or isinstance(module, OpenedExperts):
        return
    one, two = parameters[first], parameters["down_proj"]
    if one.ndim != 3 or two.ndim != 3 or len(one) < len(two) or len(two) == 0:
        return
    parts = ("gate_proj", "up_proj") if first == "gate_up_proj" else ("up_proj",)
    order = list(parameters)
    own_gate = hasattr(module, "_apply_gate")
    for transposed in (False, True):
        into, out = (1, 2) if transposed else (2, 1)
        if one.shape[into] != two.shape[out] or one.shape[out] != len(parts) * two.shape[into]:
            continue
        said = not getattr(module, "is_concatenated", True)
        for interleaved in (said, not said)[: len(parts)]:
            stacks = [Stack(first, tuple(one.shape), parts, False, transposed, interleaved)]
            stacks.append(Stack("down_proj", tuple(two.shape), ("down_proj",), False, transposed))
            if biases[0] in parameters:
                stacks.append(Stack(biases[0], tuple(parameters[biases[0]].shape), parts, True, False, interleaved))
                stacks.append(Stack(biases[1], tuple(parameters[biases[1]].shape), ("down_proj",), True))
            for passes_on in (False, True):
                for apply_gate in (False, True) if own_gate and len(parts) == 2 else (False,):
                    yield Layout(
                        tuple(sorted(stacks, key=lambda stack: order.index(stack.name))),
                        len(two),
                        apply_gate,
                        passes_on,
                    )


@torch.no_grad()
def _proved(module: nn.Module, layout: Layout) -> bool:
    """Whether a copy with random weights gives the same opened and not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        copied = _copied(module)
        (down,) = (stack for stack in layout.stacks if stack.name == "down_proj")
        width = down.shape[2 if down.transposed else 1]
        inputs = rows(width, 0, _SCALES)
        # The last index is no expert, which not every class allows.
        places = torch.tensor([0, layout.experts - 1, layout.experts // 2, layout.experts], device="cpu")
        drawn = torch.randint(len(places), (2, len(inputs), _CHOSEN), device="cpu")
        factors = torch.rand(len(inputs), _CHOSEN, dtype=torch.float32, device="cpu")
        original = getattr(type(copied).forward, "__wrapped__", type(copied).forward)
        for index in (places[drawn[0]], places[drawn[1] % 3]):
            expected = output(original, copied, inputs, index, factors)
            if expected is not None:
                break
        open_experts(copied, *layout)
        found = output(copied, inputs, index, factors)
    return agree(found, expected, _TOLERANCE)


def _copied(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    copied.__dict__ = dict(module.__dict__)
    copied._modules = {name: _drawn(child) for name, child in module._modules.items()}
    copied._parameters = {name: None if p is None else _random(p.shape) for name, p in module._parameters.items()}
    return copied.eval()


def _drawn(module: nn.Module | None) -> nn.Module | None:
    if module is None or not any(True for _ in module.parameters()):
        return module
    made = copy.deepcopy(module).to_empty(device="cpu").float()
    for parameter in made.parameters():
        parameter.copy_(torch.rand_like(parameter) + 0.5)
    return made


def _random(shape: torch.Size) -> nn.Parameter:
    few = shape if shape.numel() <= _DRAWN else torch.Size((1, *shape[1:]))
    drawn = torch.randn(few, dtype=torch.float32, device="cpu") * (few[-1] ** -0.5 if len(few) == 3 else 1.0)
    return nn.Parameter(drawn.expand(shape), requires_grad=False)
