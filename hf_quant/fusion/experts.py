"""All experts of a layer as one native call, each on the tokens that are sent to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.activation import activation_number
from hf_quant.fusion.agreement import ROUNDING, STEP, rows
from hf_quant.fusion.blocks import bias_of, is_hooked, needs_gradient, on_native, parts_of
from hf_quant.fusion.mixin import Fused
from hf_quant.modules.experts import Expert, OpenedExperts
from hf_quant.modules.linear import QuantizedLinear

_experts_op = torch.ops.hf_quant.native_experts.default
_MOST = 3


class Call(NamedTuple):
    """Linears of all experts that one call computes.

    Args:
        names: Names of one to three linears of an expert, in the order in which the op takes them.
        activation: Number of the activation in the native library; 0: none.
        gated: Whether the first is the gate of the second.
    """

    names: tuple[str, ...]
    activation: int = 0
    gated: bool = False


class Stacked(NamedTuple):
    """The tensors of one call.

    Args:
        arguments: Blocks, spec and biases as the op takes them.
        channels: Width of the output.
        packed: Blocks of each linear, in the order of names and then of experts, to see that they are still there.
    """

    arguments: tuple[torch.Tensor, ...]
    channels: int
    packed: tuple[tuple[torch.Tensor, ...], ...]


class FusedExperts(Fused):
    """Experts as one native call where gate and activation are known to it, else as one for each linear.

    The packed weights of all experts lie in one piece of memory, a row for each.
    """

    fused: tuple[Call, ...]
    calls: tuple[Stacked, ...] | None = None
    """Made when first needed, and again when a weight is another."""

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum ``[tokens, width]`` of the outputs of the experts that each token goes to."""
        if not self._is_open(hidden_states):
            return super().forward(hidden_states, top_k_index, top_k_weights)  # type: ignore[misc]
        module: Any = self
        chosen = top_k_index.shape[-1]
        indices, order = torch.sort(top_k_index.reshape(-1), stable=True)
        offsets = torch.searchsorted(indices, torch.arange(module.experts + 1, device=indices.device))
        if torch.compiler.is_compiling():
            # Looked at once, without a guard for each linear: whoever exchanges one of them lets `calls` go.
            stacked = self.calls if _is_current(self) else None
        else:
            stacked = self._current(offsets.tolist())
        if stacked is None:
            return super().forward(hidden_states, top_k_index, top_k_weights)  # type: ignore[misc]
        states = hidden_states[order // chosen]
        outputs = self._outputs(states, offsets, stacked)
        beyond = (indices >= module.experts).unsqueeze(-1)
        if module.passes_on:
            outputs = torch.where(beyond, states, outputs)
        norm = module._modules.get("post_expert_norm")
        if norm is not None:
            outputs = norm(outputs).masked_fill(beyond, 0.0)
        ordered = torch.empty_like(outputs).index_copy(0, order, outputs)
        weighted = ordered * top_k_weights.reshape(-1, 1)
        return weighted.view(-1, chosen, outputs.shape[-1]).sum(1).to(hidden_states.dtype)

    def forget(self) -> None:
        """Make the tensors of calls anew: a weight is another."""
        self.calls = None

    def _is_open(self, input: torch.Tensor) -> bool:
        if self.training or input.ndim != 2 or input.device.type != "cpu":  # type: ignore[attr-defined]
            return False
        return not (torch.is_grad_enabled() and input.requires_grad)

    def _outputs(self, states: torch.Tensor, offsets: torch.Tensor, stacked: tuple[Stacked, ...]) -> torch.Tensor:
        *before, last = stacked
        results = [_experts_op(states, *each.arguments, offsets, each.channels) for each in before]
        if results:
            first: Any = self._modules["0"]  # type: ignore[attr-defined]
            states = first.gated(*[None] * (_MOST - 1 - len(results)), *results)
        output: torch.Tensor = _experts_op(states, *last.arguments, offsets, last.channels)
        return output

    def _current(self, offsets: list[int]) -> tuple[Stacked, ...] | None:
        """The tensors of calls; None where an expert that is called is not what it was, or somebody waits for it."""
        for again in (False, True):
            if self.calls is None and (again or not self._stack()):
                return None
            if all(self._is_current(e) for e in range(len(offsets) - 1) if offsets[e] < offsets[e + 1]):
                return self.calls
            self.calls = None
        return None

    def _is_current(self, index: int) -> bool:
        assert self.calls is not None
        expert = self._modules[str(index)]  # type: ignore[attr-defined]
        if is_hooked(expert):
            return False
        for call, each in zip(self.fused, self.calls, strict=True):
            for place, name in enumerate(call.names):
                linear = expert._modules.get(name)
                if type(linear) is not QuantizedLinear or is_hooked(linear) or not linear.is_current:
                    return False
                if linear.packed[0] is not each.packed[place][index] or linear.rescaled:
                    return False
                if torch.is_grad_enabled() and needs_gradient(linear):
                    return False
        return True

    def _stack(self) -> bool:
        found = [expert for expert in self.children() if isinstance(expert, Expert)]  # type: ignore[attr-defined]
        made = [_stacked(call, found, self) for call in self.fused]
        self.calls = None if None in made else tuple(each for each in made if each is not None)
        return self.calls is not None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "calls"}

    @staticmethod
    def applies(module: nn.Module) -> list[tuple[Call, ...]]:
        """Calls for experts that are all on native kernels in the same formats."""
        if not isinstance(module, OpenedExperts):
            return []
        found = [expert for expert in module.children() if isinstance(expert, Expert)]
        first = found[0]
        names = tuple(name for name in ("gate_proj", "up_proj", "down_proj") if name in first._modules)
        for name in names:
            linears = [expert._modules[name] for expert in found]
            if any(type(each) is not QuantizedLinear for each in linears) or on_native(linears) is None:
                return []
            one: Any = linears[0]
            if any(each.spec != one.spec or (each.bias is None) != (one.bias is None) for each in linears):  # type: ignore[union-attr]
                return []
        children: Any = first._modules
        kinds = {children[name].spec.scheme.input is None for name in names}
        activation = activation_number(children["act_fn"]) if "act_fn" in children else None
        if activation is not None and len(kinds) == 1:
            same = all(_same_grid(expert) for expert in found)
            if len(names) == _MOST - 1 or same:
                return [(Call(names, activation, len(names) == _MOST),)]
        return [tuple(Call((name,)) for name in names)]

    @classmethod
    def proved(cls, module: nn.Module, facts: Any) -> bool:
        """True: what is computed otherwise is this package's own `OpenedExperts`."""
        return True

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Test rows, and experts and weights for each."""
        assert isinstance(module, OpenedExperts)
        down: Any = module.get_submodule("0.down_proj")
        states = rows(down.out_features, 0, (0.1, 1.0, 8.0)).to(down.weight.dtype)
        count = len(states)
        some = torch.arange(count, device="cpu").unsqueeze(-1)
        index = torch.cat((some % module.experts, (module.experts - 1 - some) % module.experts), -1)
        return states, index, torch.linspace(0.1, 1.0, 2 * count, device="cpu", dtype=states.dtype).view(count, 2)

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: a number between two linears may be rounded to the next code."""
        down: Any = module.get_submodule("0.down_proj")
        return (STEP if down.spec.scheme.input else 10 * ROUNDING) + 4 * torch.finfo(down.weight.dtype).eps


@torch.compiler.assume_constant_result
def _is_current(module: Any) -> bool:
    return module.calls is not None and all(module._is_current(index) for index in range(module.experts))


def _same_grid(expert: Expert) -> bool:
    # The gate and what it gates read one quantized input.
    first, second, *_ = (child for child in expert.children() if isinstance(child, QuantizedLinear))
    scales = first.input_scale, second.input_scale
    zeros = first.input_zero_point, second.input_zero_point
    return all(
        (a is None and b is None) or (a is not None and b is not None and bool(a == b)) for a, b in (scales, zeros)
    )


def _stacked(call: Call, experts: list[Expert], reader: Any) -> Stacked | None:
    """The tensors of one call, for which packed weights are moved together; None where one is not on its kernel."""
    blocks, biases, packed, specs = [], [], [], []
    none = torch.empty(0, device="cpu")
    columns: list[list[Any]] = [[expert._modules[name] for expert in experts] for name in call.names]
    for linears in columns:
        if on_native(linears) is None:
            return None
        weights = [linear.weights["weight"] for linear in linears]
        layouts = [weight.layout for weight in weights if weight.layout is not None]
        if len(layouts) < len(weights):
            return None
        whole = torch.stack([layout.tensors[0] for layout in layouts])
        for linear, weight, row in zip(linears, weights, whole.unbind(), strict=True):
            weight.move((row,))
            weight.readers.add(reader)
            linear.prepare()
        blocks.append(whole)
        packed.append(tuple(linear.packed[0] for linear in linears))
        has_bias = linears[0].bias is not None
        biases.append(torch.stack([bias_of(linear, none) for linear in linears]) if has_bias else none)
    for expert in experts:
        children: Any = expert._modules
        parts = parts_of({name: children[name] for name in call.names}, {}, call.activation, call.gated)
        specs.append(parts.spec)
    missing = [none] * (_MOST - len(columns))
    arguments = (*blocks, *missing, torch.stack(specs), *biases, *missing)
    return Stacked(arguments, columns[-1][0].out_features, tuple(packed))
