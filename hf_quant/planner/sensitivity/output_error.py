"""How far outputs move, relative to their size: no labels, no gradients, one forward pass a sequence.

    loss = (|dW x|^2 + |W dx|^2) / |W x|^2,    |dW x|^2 = tr(dW G dW^T),    G = sum over tokens of x x^T,

where ``dW`` and ``dx`` are what rounding changes of weights and inputs, taken to have nothing to do with each other.
One ``G`` for each input serves all schemes. What an error does to the model's loss is not seen: errors in all modules
count alike, which is what layer-by-layer solvers take for granted too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.calibration.statistics import counted
from hf_quant.config.scheme import Scheme
from hf_quant.modules.filters import rows_read
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.base import Measure
from hf_quant.planner.sensitivity.rounded import input_errors, weight_changes
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import kept_of

_INPUTS = "inputs"


class OutputError(Measure):
    """Sensitivity by relative output error: the squared change of a module's output over its square.

    Memory: beside the model, a float32 matrix ``[width, width]`` for each linear, experts' included; of an embedding a
    number a row.
    """

    name = "output-error"
    labelled = False
    in_nats = False

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        super().__init__(model, schemes, inventory)
        for name, candidate in self.candidates.items():
            rows, width = weight_matrix(model.get_submodule(name)).shape
            shape = (rows,) if candidate.kind == "embedding" else (width, width)
            self.sums[name] = torch.zeros(shape, dtype=torch.float32)
        self.sums[_INPUTS] = self.zeros()
        self._keep: Tensor | None = None

    @property
    def unit(self) -> str:
        """Unit of the losses, in words."""
        return "squared error over squared output"

    def counts_weight(self, name: str) -> bool:
        """Always True: outputs are each module's own, even where weights are shared."""
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which `add` works: no gradients, and hooks on all modules that can be quantized."""
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(self._hook(self.places[name], name))
            for name in self.candidates
        ]
        try:
            with super().running(), torch.no_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, row: Row, part: int) -> None:
        """Run a sequence, whose inputs to each module are added to `sums` by hooks."""
        self._keep = kept_of(row)
        self.model(**row)

    @torch.no_grad()
    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Relative output errors of one module, in the order of `schemes`."""
        errors, output = self.sums[_INPUTS][self.places[name]].tolist(), 0.0
        for member in self.members[name]:
            module, seen = self.model.get_submodule(member), self.sums[member]
            if not bool(seen.any()):
                continue
            output += _energy(weight_matrix(module).detach().to(torch.float32), seen)
            for column, change in weight_changes([module], self.fitted[name], member):
                errors[column] += _energy(change, seen)
        # A module that gives nothing, or was never called, has nothing to lose.
        return self.where_fitted(name, [error / output if output else 0.0 for error in errors])

    def _hook(self, index: int, name: str) -> Any:
        schemes, lookup = self.fitted[name], self.candidates[name].kind == "embedding"

        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], Tensor):
                return
            given = rows_read(module, args).detach()
            if lookup:
                looked_up = counted(given[..., None], self._keep).flatten()
                is_own = type(module) is not nn.Embedding
                if is_own and (given.is_floating_point() or int(given.max()) <= 1):
                    self.sums[name] += 1  # a mask, of which positions are made: which rows is not known
                    return
                self.sums[name] += torch.bincount(looked_up, minlength=len(self.sums[name])).cpu()
                return
            tokens = counted(given, self._keep).to(torch.float32)
            self.sums[name] += (tokens.T @ tokens).cpu()
            weight = weight_matrix(module).detach().to(torch.float32)
            for column, error in input_errors([tokens], schemes, lambda change: (change @ weight.T).square_().sum()):
                self.sums[_INPUTS][index, column] += error

        return watch


def _energy(matrix: Tensor, seen: Tensor) -> float:
    """Squared norm of a matrix's outputs over all inputs: ``tr(M G M^T)``, or of rows by how often they were read."""
    if seen.ndim == 1:
        return float(matrix.square().sum(1).double() @ seen.to(matrix.device).double())
    return float((matrix @ seen.to(matrix.device) * matrix).sum(dtype=torch.float64))
