"""Which modules are experts stacked in tensors, and how: guessed by structure, proved by running both ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.agreement import agree, output, rows
from hf_quant.modules.expert_kinds import ExpertsOnShares, SharedExperts, SortedExperts
from hf_quant.modules.experts import ExpertLayer, OpenedExperts, Stack, open_experts
from hf_quant.modules.opened import Opened

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
    kind: type[ExpertLayer]
    apply_gate: bool = False
    passes_on: bool = False


def layout_of(module: nn.Module, found: dict[Any, Layout | None] | None = None) -> Layout | None:
    """The layout by which a module computes; None where it holds no stacked experts, or computes something else.

    Args:
        module: On any device; its weights are not read.
        found: Layouts of other modules of the same model, which are not proved again.
    """
    guesses = list(_guesses(module))
    if not guesses:
        return None
    found = {} if found is None else found
    if (kind := _kind(module)) not in found:
        found[kind] = next((layout for layout in guesses if _proved(module, layout)), None)
    return found[kind]


def _kind(module: nn.Module) -> tuple[Any, ...]:
    """What two modules have in common that compute the same but for their weights."""
    own = nn.Module().__dict__
    shapes = tuple((name, None if p is None else tuple(p.shape)) for name, p in module._parameters.items())
    said = tuple(
        (name, value if isinstance(value, bool | int | float | str | None) else id(value))
        for name, value in module.__dict__.items()
        if name not in own
    )
    return type(module), shapes, said, tuple((name, child and _kind(child)) for name, child in module._modules.items())


def _guesses(module: nn.Module) -> Iterator[Layout]:
    parameters = {name: p for name, p in module._parameters.items() if p is not None}
    if isinstance(module, Opened) or not parameters or any(p.ndim not in (2, 3) for p in parameters.values()):
        return
    weights = {name: tuple(p.shape) for name, p in parameters.items() if p.ndim == 3}
    if list(parameters) == ["weight"] and weights:
        shape = weights["weight"]
        yield Layout((Stack("weight", shape, ("",)),), shape[0], SortedExperts)
    elif weights.keys() == {"gate_proj", "up_proj", "down_proj"} == parameters.keys():
        stacks = tuple(Stack(name, shape, (name,)) for name, shape in weights.items())
        yield Layout(stacks, stacks[0].shape[0], SharedExperts)
    for first in ("gate_up_proj", "up_proj"):
        names = (first, "down_proj")
        biases = tuple(f"{name}_bias" for name in names)
        if weights.keys() == {*names} and parameters.keys() in ({*names}, {*names, *biases}):
            yield from _of_two(module, parameters, first)


def _of_two(module: nn.Module, parameters: dict[str, nn.Parameter], first: str) -> Iterator[Layout]:
    one, two = tuple(parameters[first].shape), tuple(parameters["down_proj"].shape)
    parts = ("gate_proj", "up_proj") if first == "gate_up_proj" else ("up_proj",)
    said = not getattr(module, "is_concatenated", True)
    for transposed in (False, True):
        into, out = (1, 2) if transposed else (2, 1)
        if one[into] != two[out] or one[out] != len(parts) * two[into] or not one[0] >= two[0] > 0:
            continue
        for interleaved in (said, not said)[: len(parts)]:
            stacks = []
            for name, parameter in parameters.items():
                of_bias, of_first = name.endswith("_bias"), name.startswith(first)
                turned, by_turns = transposed and not of_bias, interleaved and of_first
                held = parts if of_first else ("down_proj",)
                stacks.append(Stack(name, tuple(parameter.shape), held, of_bias, turned, by_turns))
            gates = (False, True) if hasattr(module, "_apply_gate") and len(parts) == 2 else (False,)
            for apply_gate in gates:
                yield Layout(tuple(stacks), two[0], OpenedExperts, apply_gate, False)
                yield Layout(tuple(stacks), two[0], OpenedExperts, apply_gate, True)
            yield Layout(tuple(stacks), two[0], ExpertsOnShares)


@torch.no_grad()
def _proved(module: nn.Module, layout: Layout) -> bool:
    """Whether a copy with random weights gives the same opened and not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        copied = _copied(module)
        original = getattr(type(copied).forward, "__wrapped__", type(copied).forward)
        cases = list(_inputs(layout))
        expected = [output(original, copied, *inputs) for inputs in cases]
        open_experts(copied, *layout)
        # Some classes do not allow an index of no expert.
        taken = next(
            ((inputs, given) for inputs, given in zip(cases, expected, strict=True) if given is not None), None
        )
        return taken is not None and agree(output(copied, *taken[0]), taken[1], _TOLERANCE)


def _inputs(layout: Layout) -> Iterator[tuple[Any, ...]]:
    """What experts of a kind may be called with."""
    one = layout.stacks[0]
    states = rows(one.shape[1 if one.transposed else 2], 0, _SCALES)
    count, experts = len(states), layout.experts
    if layout.kind is ExpertsOnShares:
        yield (states[:4].repeat(experts, 1),)
    elif layout.kind is SortedExperts:
        few = min(4, experts)
        yield states[: 4 * few], [4] * few + [0] * (experts - few)
    elif layout.kind is SharedExperts:
        yield states, torch.rand(count, experts, dtype=torch.float32, device="cpu")
    else:
        places = torch.tensor([0, experts - 1, experts // 2, experts], device="cpu")
        factors = torch.rand(count, _CHOSEN, dtype=torch.float32, device="cpu")
        for kinds in (4, 3):
            yield states, places[torch.randint(kinds, (count, _CHOSEN), device="cpu")], factors


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
