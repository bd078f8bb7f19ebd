"""LSTM and GRU whose weights are linears of their own."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from hf_quant.modules.mixed import mixed
from hf_quant.modules.opened import Opened, Whole, bare_linear

CLASSES = (nn.LSTM, nn.GRU)


class Steps(NamedTuple):
    """Time steps of a call, from the first to the last.

    Args:
        sizes: Sequences in each step, which descend.
        tensor: The same as int64 ``[time]``.
    """

    sizes: list[int]
    tensor: torch.Tensor


class OpenedRecurrent(Opened):
    """First base of the class of an opened ``nn.LSTM`` or ``nn.GRU``.

    Children ``ih_l0``, ``hh_l0``, ``ih_l0_reverse``, ... hold weights and biases, and ``hr_l0`` where it projects. The
    first of them gets all time steps at once.
    """

    stacks: tuple[Whole, ...]
    num_layers: int
    hidden_size: int
    input_size: int
    proj_size: int
    dropout: float
    batch_first: bool
    bidirectional: bool
    mode: str

    def views(self, stack: Whole, whole: torch.Tensor) -> Any:
        """The tensor itself."""
        return iter([(_part(stack), whole)])

    def stacked(self, stack: Whole) -> torch.Tensor:
        """The parameter itself, decoded where it is quantized."""
        held = self.part(_part(stack))
        return held if type(held) is nn.Parameter else super().stacked(stack)

    def close(self, parameters: dict[str, nn.Parameter] | None = None) -> None:
        """Make the module what it was."""
        super().close(parameters)
        self._init_flat_weights()  # that of its own class

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Output and last states, as of the class that was opened, of a tensor or a ``PackedSequence``."""
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: expected input to be 2D or 3D, got {input.dim()}D")
        is_batched = input.dim() == 3
        if not is_batched:
            input = input.unsqueeze(0 if self.batch_first else 1)
        time, batch = (input.shape[1], input.shape[0]) if self.batch_first else input.shape[:2]
        if not time:
            raise RuntimeError("expected sequences of at least one step")
        steps = Steps([batch] * time, torch.full((time,), batch, dtype=torch.int64, device="cpu"))
        outputs, states = self._layers(input, steps, self._states(hx, input, batch, is_batched))
        if not is_batched:
            outputs, states = outputs.squeeze(0 if self.batch_first else 1), [state.squeeze(1) for state in states]
        return outputs, self._handed(states)

    def _packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        rows, sizes, order, back = input
        steps = Steps(sizes.tolist(), sizes)
        if not steps.sizes or steps.sizes != sorted(steps.sizes, reverse=True) or sum(steps.sizes) != len(rows):
            raise RuntimeError(f"batch_sizes must descend and add up to {len(rows)} rows, got {steps.sizes}")
        states = self._states(hx, rows, steps.sizes[0], True)
        if order is not None and hx is not None:
            states = [state.index_select(1, order) for state in states]
        outputs, states = self._layers(rows, steps, states)
        if back is not None:
            states = [state.index_select(1, back) for state in states]
        return PackedSequence(outputs, sizes, order, back), self._handed(states)

    def _states(self, hx: Any, input: torch.Tensor, batch: int, is_batched: bool) -> list[torch.Tensor]:
        """First states ``[layers * directions, batch, width]``: of an LSTM two, of a GRU one."""
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be input_size: expected {self.input_size}, got {input.shape[-1]}")
        count = self.num_layers * (1 + self.bidirectional)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 1 if self.mode == "GRU" else 2]
        if hx is None:
            return [input.new_zeros(count, batch, width) for width in widths]
        states = [hx] if isinstance(hx, torch.Tensor) else list(hx)
        shapes = [(count, batch, width) if is_batched else (count, width) for width in widths]
        if [tuple(state.shape) for state in states] != shapes:
            raise RuntimeError(f"expected states of sizes {shapes}, got {[list(state.shape) for state in states]}")
        return states if is_batched else [state.unsqueeze(1) for state in states]

    def _handed(self, states: list[torch.Tensor]) -> Any:
        return states[0] if self.mode == "GRU" else tuple(states)

    def _layers(
        self, rows: torch.Tensor, steps: Steps, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs as `rows` lie, ``[..., width]``, and last states."""
        last: list[list[torch.Tensor]] = []
        turned = self.batch_first and rows.dim() == 3
        for layer in range(self.num_layers):
            if layer and self.dropout:
                rows = functional.dropout(rows, self.dropout, self.training)
            outputs = []
            for reverse in (False, True)[: 1 + self.bidirectional]:
                name = f"l{layer}_reverse" if reverse else f"l{layer}"
                gates = self.get_submodule(f"ih_{name}")(rows)
                gates = gates.transpose(0, 1) if turned else gates
                given = [state[len(last)] for state in states]
                output, *after = self.recurrence(name, gates.reshape(-1, gates.shape[-1]), steps, given, reverse)
                outputs.append(output)
                last.append(after)
            joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if turned:
                rows = joined.view(rows.shape[1], rows.shape[0], joined.shape[-1]).transpose(0, 1)
            else:
                rows = joined.view(*rows.shape[:-1], joined.shape[-1])
        return rows, [torch.stack(each) for each in zip(*last, strict=True)]

    def recurrence(
        self, name: str, gates: torch.Tensor, steps: Steps, states: list[torch.Tensor], reverse: bool
    ) -> list[torch.Tensor]:
        """One layer in one direction, step by step.

        Args:
            name: End of the names of its linears, such as ``"l0_reverse"``.
            gates: What the input gives to gates ``[rows, gates]``, one step's rows after the other's.
            steps: Rows of each step.
            states: First states ``[batch, width]``: the hidden one, and that of an LSTM's cells.
            reverse: Whether the last step comes first.

        Returns:
            Outputs ``[rows, width]``, and last states.
        """
        hidden_linear = self.get_submodule(f"hh_{name}")
        projection: Any = self._modules.get(f"hr_{name}")
        starts = [0, *accumulate(steps.sizes)]
        outputs: dict[int, torch.Tensor] = {}
        for step in reversed(range(len(steps.sizes))) if reverse else range(len(steps.sizes)):
            count = steps.sizes[step]
            before = [state[:count] for state in states]
            given = gates[starts[step] : starts[step + 1]]
            after = _gru if self.mode == "GRU" else _lstm
            now = after(given, hidden_linear(before[0]), *before)
            if projection is not None:
                now[0] = projection(now[0])
            outputs[step] = now[0]
            states = [torch.cat((new, old[count:])) for new, old in zip(now, states, strict=True)]
        return [torch.cat([outputs[step] for step in range(len(steps.sizes))]), *states]

    def flatten_parameters(self) -> None:
        """Nothing: there are no weights to lay side by side."""

    def _init_flat_weights(self) -> None:
        """Nothing, as `flatten_parameters`."""

    def _update_flat_weights(self) -> None:
        """Nothing, as `flatten_parameters`."""


def _lstm(given: torch.Tensor, product: torch.Tensor, _: torch.Tensor, cell: torch.Tensor) -> list[torch.Tensor]:
    enter, forget, candidate, show = (given + product).chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return [show.sigmoid() * cell.tanh(), cell]


def _gru(given: torch.Tensor, product: torch.Tensor, hidden: torch.Tensor) -> list[torch.Tensor]:
    (reset, update, new), (by_reset, by_update, by_new) = given.chunk(3, -1), product.chunk(3, -1)
    candidate = (new + (reset + by_reset).sigmoid() * by_new).tanh()
    return [candidate + (update + by_update).sigmoid() * (hidden - candidate)]


def _part(whole: Whole) -> str:
    """Name in the opened module, such as ``"hh_l0.weight"`` of ``"weight_hh_l0"``."""
    tensor, _, linear = whole.name.partition("_")
    return f"{linear}.{tensor}"


def open_recurrent(module: nn.Module) -> None:
    """Let the weights of an LSTM or a GRU be linears of their own, which hold its very parameters.

    Args:
        module: Of one of `CLASSES`; changed in place.
    """
    parameters: dict[str, Any] = dict(module._parameters)
    stacks = tuple(Whole(name, tuple(parameter.shape)) for name, parameter in parameters.items())
    module._parameters.clear()
    module.__class__ = mixed(OpenedRecurrent, type(module))
    assert isinstance(module, OpenedRecurrent)
    module.open(stacks=stacks, _flat_weights=[], _flat_weight_refs=[])
    for stack in stacks:
        linear, _, tensor = _part(stack).partition(".")
        if linear not in module._modules:
            module.add_module(linear, bare_linear().train(module.training))
        made: Any = module._modules[linear]
        made.register_parameter(tensor, parameters[stack.name])
        if tensor == "weight":
            made.out_features, made.in_features = stack.shape
