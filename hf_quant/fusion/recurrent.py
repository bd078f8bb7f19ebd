"""All time steps of a layer of an LSTM or a GRU as one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.fusion.agreement import ROUNDING, STEP, rows
from hf_quant.fusion.blocks import bias_of, dtype_of, is_hooked, needs_gradient, on_native
from hf_quant.fusion.mixin import Fused
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.recurrent import OpenedRecurrent, Steps

_recurrent_op = torch.ops.hf_quant.native_recurrent.default


class FusedRecurrent(Fused):
    """An opened LSTM or GRU whose recurrences are native calls; states are float32 in them."""

    fused: torch.Tensor
    """Empty tensor that stands for what is not there."""

    def recurrence(
        self, name: str, gates: torch.Tensor, steps: Steps, states: list[torch.Tensor], reverse: bool
    ) -> list[torch.Tensor]:
        """Outputs and last states of one layer in one direction; in one native call where that is allowed."""
        module: Any = self
        linears = [module._modules[name] for name in (f"hh_{name}", f"hr_{name}") if name in module._modules]
        if not _is_open(linears, gates, *states):
            return super().recurrence(name, gates, steps, states, reverse)  # type: ignore[misc]
        none = self.fused
        weights = [(*linear.packed[:2], bias_of(linear, none)) for linear in linears]
        hidden, cell = [*(state.float().contiguous() for state in states), none][:2]
        blocks, projection = [*weights, (none, none, none)][:2]
        found = _recurrent_op(
            gates.float().contiguous(), hidden, cell, steps.tensor, *blocks, *projection, len(states) == 1, reverse
        )
        return [each.to(gates.dtype) for each in found[: 1 + len(states)]]

    @staticmethod
    def applies(module: nn.Module) -> list[torch.Tensor]:
        """An empty tensor for an opened LSTM or GRU whose hidden weights, and projections, are on native kernels."""
        if not isinstance(module, OpenedRecurrent):
            return []
        linears = _hidden(module)
        if any(type(each) is not QuantizedLinear for each in linears) or on_native(linears) is None:
            return []
        return [torch.empty(0, device="cpu")]

    @classmethod
    def proved(cls, module: nn.Module, facts: Any) -> bool:
        """True: what is computed otherwise is this package's own `OpenedRecurrent`."""
        return True

    @staticmethod
    def call(module: nn.Module, *inputs: torch.Tensor) -> Any:
        """Outputs alone."""
        return module(*inputs)[0]

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Test sequences of ordinary numbers."""
        assert isinstance(module, OpenedRecurrent)
        return (rows(module.input_size, 0, (0.1, 1.0)).to(dtype_of(module)).view(3, 4, -1),)

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: a state may be rounded to the next code."""
        quantized = any(each.spec.scheme.input for each in _hidden(module))
        return (STEP if quantized else 10 * ROUNDING) + 8 * torch.finfo(dtype_of(module)).eps


def _hidden(module: nn.Module) -> list[Any]:
    return [child for name, child in module.named_children() if not name.startswith("ih_")]


def _is_open(linears: list[Any], *tensors: torch.Tensor) -> bool:
    if any(tensor.device.type != "cpu" for tensor in tensors) or any(map(is_hooked, linears)):
        return False
    if torch.is_grad_enabled() and (any(each.requires_grad for each in tensors) or any(map(needs_gradient, linears))):
        return False
    return on_native(linears) is not None
