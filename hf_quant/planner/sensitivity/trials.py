"""The model with one module quantized at a time, on one sequence.

Blocks before the module's own compute what they would in the float model, so they hand on what they gave then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.calibration.blocks import find_blocks, hidden_of, passed_over, tuple_length
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.calibration.statistics import counted
from hf_quant.config.scheme import Scheme
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.filters import Filters, by_group
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.base import Measure
from hf_quant.planner.sensitivity.rounded import quantized_weight, rounded_inputs
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import kept_of

_SCORES = "scores"


class Trials(Measure):
    """Sensitivity by trial: the model runs with one module quantized, and its outputs are compared with the float ones.

    The true effect of one change rather than a model of it, for one pass a module and scheme. Memory: beside the model,
    the inputs of its blocks and its outputs, for one sequence.
    """

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        super().__init__(model, schemes, inventory)
        self.names = list(self.members)
        self.sums[_SCORES] = self.zeros()
        try:
            self._prefix = find_blocks(model)
            self._blocks: nn.ModuleList | None = model.get_submodule(self._prefix)
        except UnsupportedModel:
            self._prefix, self._blocks = "", None
        self._row: Row | None = None
        self._keep: Tensor | None = None

    @property
    def parts(self) -> int:
        """Number of parts of the work on one sequence: the modules, or experts of a layer, that are tried."""
        return len(self.names)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which `add` works: evaluation mode without gradients."""
        with super().running(), torch.no_grad():
            yield
        self._row = None

    @abstractmethod
    def reference(self, outputs: Any, row: Row) -> Any:
        """What is kept of the float model's outputs on a sequence, for `score`."""

    @abstractmethod
    def score(self, outputs: Any, reference: Any, row: Row) -> float:
        """Loss on a sequence with one module quantized, by its outputs and the float model's `reference`."""

    def add(self, row: Row, part: int) -> None:
        """Run a sequence with one module quantized to each scheme, and add the losses to `sums`."""
        if self._row is not row:
            self._start(row)
        name = self.names[part]
        known: dict[Scheme, float] = {}
        for column, scheme in enumerate(self.fitted[name]):
            if scheme is None:
                continue
            if scheme not in known:
                with self._up_to(name), self._quantized(name, scheme):
                    known[scheme] = self.score(self.model(**row), self._reference, row)
            self.sums[_SCORES][part, column] += known[scheme]

    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Mean measured losses of one module, in the order of `schemes`."""
        means = self.sums[_SCORES][self.places[name]] / sequences
        return [None if scheme is None else float(mean) for scheme, mean in zip(self.fitted[name], means, strict=True)]

    def _start(self, row: Row) -> None:
        """Run the float model on a sequence, and keep its reference and what its blocks give."""
        outputs: list[Any] = []
        blocks: list[nn.Module] = list(self._blocks or [])
        handles = [block.register_forward_hook(lambda module, args, output: outputs.append(output)) for block in blocks]
        try:
            self._reference = self.reference(self.model(**row), row)
        finally:
            for handle in handles:
                handle.remove()
        # Blocks that are called in another way than once each are run in full, every time.
        self._given = [hidden_of(output) for output in outputs] if len(outputs) == len(blocks) else []
        self._in_tuples = tuple_length(outputs[0]) if outputs else 0
        self._row, self._keep = row, kept_of(row)

    @contextmanager
    def _up_to(self, name: str) -> Iterator[None]:
        """Context in which blocks before a module's, or all for a module after them, return what they gave in float."""
        before = self._passed(name)
        if not before or self._blocks is None:
            yield
            return
        with passed_over(self._blocks[:before], self._in_tuples) as result:
            result.append(self._given[before - 1])
            yield

    def _passed(self, name: str) -> int:
        if not self._given or self._blocks is None:
            return 0
        if name.startswith(f"{self._prefix}."):
            return int(name[len(self._prefix) + 1 :].split(".")[0])
        # Only heads come after the blocks, and not what one that owns the weight of others shares with them.
        owns_shared = self.owners[name] == name and len(self.inventory.group(name)) > 1
        return len(self._blocks) if name in self.inventory.heads and not owns_shared else 0

    @contextmanager
    def _quantized(self, name: str, scheme: Scheme) -> Iterator[None]:
        modules = {member: self.model.get_submodule(member) for member in self.members[name]}
        kept = [(module, module.weight.data) for module in modules.values()]
        handles = []
        if scheme.input is not None:
            rounding = _rounding(scheme, self._keep)
            handles = [module.register_forward_pre_hook(rounding) for module in modules.values()]
        try:
            for member, module in modules.items():
                if self.owners[member] == member:
                    weight = quantized_weight(module, scheme, member).to(module.weight.dtype)
                    module.weight.data = weight_matrix(module, weight).contiguous()
            yield
        finally:
            for module, weight in kept:
                module.weight.data = weight
            for handle in handles:
                handle.remove()


def _rounding(scheme: Scheme, keep: Tensor | None) -> Any:
    def change(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        given = args[0]
        if isinstance(module, Filters):
            tokens = rounded_inputs([by_group(given, module).to(torch.float32)], scheme)
            return (tokens.view(given.shape).to(given.dtype), *args[1:])
        flat = given.flatten(0, -2).to(torch.float32)
        tokens = rounded_inputs([flat], scheme, counted(given, keep).to(torch.float32))
        return (tokens.view(given.shape).to(given.dtype), *args[1:])

    return change
