"""Experts that are modules of their own, in the place of a module whose tensors hold all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.mixed import mixed
from hf_quant.modules.opened import Opened, bare_linear


@dataclass(frozen=True)
class Stack:
    """How one tensor holds a part, or two, of all experts.

    Args:
        name: Name of the parameter ``[experts, ...]``.
        shape: Its shape. The first dimension may be larger than the number of experts, and the rest unused.
        parts: Linears of an expert that it holds, such as ``("gate_proj", "up_proj")``; ``""`` where the expert is one.
        of_bias: Whether it holds biases ``[experts, out]``, instead of weights.
        transposed: Whether a weight is ``[in, out]``, instead of ``[out, in]``.
        interleaved: Whether the rows of two parts alternate, instead of following one another.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    of_bias: bool = False
    transposed: bool = False
    interleaved: bool = False

    @property
    def tensor(self) -> str:
        """Name of the parameter of a linear that it holds."""
        return "bias" if self.of_bias else "weight"

    def views(self, stacked: torch.Tensor, expert: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Parts of one expert in memory of the stacked tensor, ``[out, in]`` or ``[out]``, by the names of linears."""
        matrix = stacked[expert]
        matrix = matrix.t() if self.transposed and not self.of_bias else matrix
        count = len(self.parts)
        for index, part in enumerate(self.parts):
            if self.interleaved:
                yield part, matrix[index::count]
            else:
                yield part, matrix.narrow(0, index * (len(matrix) // count), len(matrix) // count)

    def tensors(self, stacked: torch.Tensor, experts: int) -> Iterator[tuple[str, torch.Tensor]]:
        """All parts of the first `experts` as `views`, by names such as ``"7.gate_proj.weight"``."""
        for expert in range(experts):
            for part, view in self.views(stacked, expert):
                yield f"{self.path(expert, part)}.{self.tensor}", view

    @staticmethod
    def path(expert: int, part: str) -> str:
        """Name of the linear that is a part of an expert."""
        return f"{expert}.{part}".rstrip(".")


class Expert(nn.Module):
    """One expert, ``down(gate(x))``, where the gate is what a class of experts makes of its first linears.

    Args:
        linears: Linears by name: ``up_proj`` and ``down_proj``, and ``gate_proj`` where there is one.
        activation: Module of the activation function; None where `apply_gate` does all.
        apply_gate: Function of the outputs of gate and up, one after the other in the last dimension; None where that
            is ``activation(gate) * up``, or ``activation(up)`` where there is no gate.
        interleaved: Whether `apply_gate` takes both by turns.
    """

    def __init__(
        self,
        linears: dict[str, nn.Linear],
        activation: nn.Module | None,
        apply_gate: Callable[[torch.Tensor], torch.Tensor] | None = None,
        interleaved: bool = False,
    ):
        super().__init__()
        for name, linear in linears.items():
            self.add_module(name, linear)
        if activation is not None and apply_gate is None:
            self.act_fn = activation
        self.apply_gate, self.interleaved = apply_gate, interleaved

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get("_modules", {}).get(name)
        super().__setattr__(name, value)
        if isinstance(before, QuantizedModule) and before is not value:
            # Who computes with its weight in this expert's place, in a compiled graph too, is to look again.
            for weight in before.weights.values():
                weight.tell()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Output ``[tokens, width]`` for the tokens that were sent to this expert, of the same shape."""
        parts: Any = self._modules
        up = parts["up_proj"](hidden_states)
        gate = parts["gate_proj"](hidden_states) if "gate_proj" in parts else None
        output: torch.Tensor = parts["down_proj"](self.gated(gate, up))
        return output

    def gated(self, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        """What the last linear gets ``[tokens, inner]``, of the outputs of the first two, of the same shape."""
        activation: Any = self._modules.get("act_fn")
        if gate is None:
            return activation(up)
        if self.apply_gate is None:
            return activation(gate) * up
        return self.apply_gate(
            torch.stack((gate, up), -1).flatten(-2) if self.interleaved else torch.cat((gate, up), -1)
        )


class ExpertLayer(Opened):
    """First base of a class of experts whose tensors are opened: children ``0`` to ``experts - 1`` compute."""

    stacks: tuple[Stack, ...]
    experts: int
    unused: dict[str, torch.Tensor]
    """What tensors hold beyond the experts, by name."""
    passes_on: bool
    """Whether indices beyond the experts mean the hidden states themselves, instead of nothing."""
    facts = ("stacks", "experts", "unused", "passes_on")

    def views(self, stack: Stack, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Parts of all experts by names such as ``"7.gate_proj.weight"``."""
        return stack.tensors(whole, self.experts)

    def parts(self, stack: Stack) -> list[str]:
        """Names such as ``"7.gate_proj.weight"``."""
        return [f"{stack.path(e, part)}.{stack.tensor}" for e in range(self.experts) for part in stack.parts]

    def read(self, stack: Stack, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """As `views`; what lies beyond the experts is kept."""
        if stack.name in self.unused:
            self.unused[stack.name] = whole[self.experts :].clone()
        return self.views(stack, whole)

    def stacked(self, stack: Stack) -> torch.Tensor:
        """One of the tensors that there were, with what it held beyond the experts."""
        whole = super().stacked(stack)
        if stack.name in self.unused and not self.unused[stack.name].is_meta:  # a quantized checkpoint lacks them
            whole[self.experts :] = self.unused[stack.name]
        return whole


class OpenedExperts(ExpertLayer):
    """Opened experts that are called as most in Transformers are: each token goes to some of them.

    They get hidden states ``[tokens, width]``, and for each token its experts and the weights of their outputs, both
    ``[tokens, chosen]``. An index of no expert adds nothing.
    """

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum ``[tokens, width]`` of the outputs of the experts that each token goes to."""
        chosen = top_k_index.shape[-1]
        indices = top_k_index.reshape(-1)
        counts = torch.bincount(indices.clamp(max=self.experts), minlength=self.experts + 1)[: self.experts]
        order = torch.argsort(indices, stable=True)
        outputs = hidden_states.new_zeros(len(indices), hidden_states.shape[-1])
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count:
                rows = order[start : start + count]
                # Under autocast they are of another dtype.
                outputs[rows] = self.expert(expert, hidden_states[rows // chosen]).to(outputs.dtype)
                start += count
        if self.passes_on:
            rows = order[start:]
            outputs[rows] = hidden_states[rows // chosen]
        weighted = outputs * top_k_weights.reshape(-1, 1)
        return weighted.view(-1, chosen, hidden_states.shape[-1]).sum(1).to(hidden_states.dtype)

    def expert(self, index: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """Output of one expert, normalised where its class does so."""
        output: torch.Tensor = self._modules[str(index)](hidden_states)  # type: ignore[misc]
        norm = self._modules.get("post_expert_norm")
        return output if norm is None else norm(output)


def open_experts(
    module: nn.Module,
    stacks: tuple[Stack, ...],
    experts: int,
    kind: type[ExpertLayer] = OpenedExperts,
    apply_gate: bool = False,
    passes_on: bool = False,
) -> None:
    """Let experts of a module be modules of their own, whose parameters lie in the memory of the stacked tensors.

    Args:
        module: Experts with the parameters that `stacks` names; changed in place.
        stacks: Its tensors, in its order.
        experts: Number of experts.
        kind: How they are called.
        apply_gate: Whether it makes something of its own of gate and up.
        passes_on: See `ExpertLayer`.
    """
    interleaved = any(stack.interleaved for stack in stacks)
    activation = module._modules.get("act_fn")
    parameters: dict[str, Any] = {stack.name: module._parameters.pop(stack.name) for stack in stacks}
    module.__class__ = mixed(kind, type(module))
    unused = {
        stack.name: parameters[stack.name].detach()[experts:].clone() for stack in stacks if stack.shape[0] > experts
    }
    assert isinstance(module, ExpertLayer)
    module.open(stacks=stacks, experts=experts, unused=unused, passes_on=passes_on)
    gate: Any = module._apply_gate if apply_gate else None
    for expert in range(experts):
        linears: dict[str, nn.Linear] = {}
        for stack in sorted(stacks, key=lambda stack: stack.of_bias):
            parameter = parameters[stack.name]
            for part, view in stack.views(parameter.detach(), expert):
                linear = linears[part] if stack.of_bias else linears.setdefault(part, bare_linear())
                held = view.contiguous() if stack.of_bias else view  # kernels add biases of one piece
                linear.register_parameter(stack.tensor, nn.Parameter(held, parameter.requires_grad))
                if not stack.of_bias:
                    linear.out_features, linear.in_features = view.shape
        made = linears.get("") or Expert(linears, activation, gate, interleaved)
        module.add_module(str(expert), made.train(module.training))


Reroute = Callable[[OpenedExperts, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def rerouted(model: nn.Module, reroute: Reroute) -> Iterator[None]:
    """Context in which the tokens of opened experts go elsewhere than the router says.

    Args:
        model: Model or a part of one; it gets hooks until the context ends.
        reroute: Function of opened experts, indices of experts and weights of their outputs, both ``[tokens, chosen]``;
            gives those to take.
    """
    signature = inspect.signature(OpenedExperts.forward)

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _, hidden_states, index, weights = signature.bind(module, *args, **kwargs).args
        return (hidden_states, *reroute(module, index, weights)), {}

    routed = [module for _, module in expert_layers(model) if isinstance(module, OpenedExperts)]
    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in routed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def expert_layers(model: nn.Module) -> Iterator[tuple[str, ExpertLayer]]:
    """Modules of opened experts, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, ExpertLayer))
