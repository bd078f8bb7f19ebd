"""Second-order losses with the mean of the Hessian's diagonal for each module (HAWQ-V2, arXiv:1911.03852).

    loss = 1/2 * tr(H_W) / n_W * |dW|^2,

and likewise for inputs. Traces are Hutchinson's: ``tr(H) = E[v^T H v]`` for ``v`` of random signs, one product of
Hessian and vector for each sequence and block, drawn alike in every run. Other than with `fisher`, curvature is not
taken from gradients, but one number stands for all of a module's weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_quant.calibration.blocks import find_blocks
from hf_quant.calibration.statistics import counted
from hf_quant.config.scheme import Scheme
from hf_quant.errors import UnsupportedModel
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.base import Measure
from hf_quant.planner.sensitivity.gradients import gradients_of, require_finite
from hf_quant.planner.sensitivity.rounded import input_errors, weight_changes
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import kept_of

_WEIGHTS, _INPUTS, _CHANGES = "weights", "inputs", "changes"


class HessianTrace(Measure):
    """Sensitivity by Hessian traces: mean curvature of weights and of inputs, times half their squared change.

    Memory: beside the model, its gradients once, and the graph of two backward passes over one sequence. Curvature that
    the draws put below 0 counts as 0.
    """

    name = "hessian"

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        super().__init__(model, schemes, inventory)
        self.weights: dict[str, nn.Parameter] = {
            name: model.get_submodule(name).weight for name in self.candidates if self.counts_weight(name)
        }
        # Traces of the weights' Hessians, means of the inputs', and squared changes of inputs.
        self.sums |= {
            _WEIGHTS: torch.zeros(len(self.members), dtype=torch.float64),
            _INPUTS: torch.zeros(len(self.members), dtype=torch.float64),
            _CHANGES: self.zeros(),
        }
        self._generator = torch.Generator()
        self._calls: list[tuple[str, Tensor]] = []
        self._numbers: dict[int, int] = {}  # of a call's input without padding, by its place among the points
        self._keep: Tensor | None = None
        try:
            self._prefix = find_blocks(model)
        except UnsupportedModel:
            self._prefix = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which `add` works: gradients of the weights, and hooks on modules whose inputs may be rounded."""
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(self._hook(name, schemes))
            for name, schemes in self.fitted.items()
            if any(scheme is not None and scheme.input is not None for scheme in schemes)
        ]
        try:
            # Other kernels of attention cannot be differentiated twice.
            with super().running(), gradients_of(self.model, list(self.weights.values())), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, row: Row, part: int) -> None:
        """Add a sequence's estimates of the Hessian's traces, and its input errors, to `sums`."""
        self._calls, self._numbers, self._keep = [], {}, kept_of(row)
        # Signs depend on the sequence alone, not on which process it fell to.
        given = row["input_ids"] if "input_ids" in row else next(iter(row.values())).view(-1).view(torch.uint8)
        self._generator.manual_seed(int(given.sum()) % 2**31)
        loss = self.model(**row).loss
        require_finite(loss)
        calls, self._calls = self._calls, []
        names = [*self.weights, *(name for name, _ in calls)]
        points = [*self.weights.values(), *(given for _, given in calls)]
        gradients = torch.autograd.grad(loss, points, create_graph=True, allow_unused=True)
        numbers: Counter[int] = Counter()
        for number, (name, _) in enumerate(calls, len(self.weights)):
            numbers[self.places[name]] += self._numbers[number]
        for group in self._groups(names):
            for number, trace in self._traces(group, points, gradients):
                place = self.places[names[number]]
                if number < len(self.weights):
                    self.sums[_WEIGHTS][place] += trace
                else:
                    self.sums[_INPUTS][place] += trace / max(1, numbers[place])

    def _groups(self, names: Sequence[str]) -> list[list[int]]:
        """Indices of names whose traces are estimated together: those of a block, or of one module outside them."""
        groups: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            inside = bool(self._prefix) and name.startswith(f"{self._prefix}.")
            key = name[len(self._prefix) + 1 :].split(".")[0] if inside else name
            groups.setdefault(key, []).append(number)
        return list(groups.values())

    def _traces(
        self, group: Sequence[int], points: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> Iterator[tuple[int, float]]:
        """Index and ``v^T H v`` of each tensor of a group, for one random ``v``."""
        signs = {number: self._signs(points[number]) for number in group}
        products = []
        for number in group:
            gradient = gradients[number]
            if gradient is not None and gradient.requires_grad:
                products.append((gradient * signs[number]).sum())
        if not products:
            return
        curved = torch.autograd.grad(
            torch.stack(products).sum(), [points[number] for number in group], retain_graph=True, allow_unused=True
        )
        for number, each in zip(group, curved, strict=True):
            if each is not None:
                yield number, float((each.detach() * signs[number]).sum(dtype=torch.float64))

    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Losses of one module, for its weight and its inputs, in the order of `schemes`."""
        place = self.places[name]
        of_input = max(0.0, float(self.sums[_INPUTS][place]) / sequences)
        losses = (0.5 * of_input * self.sums[_CHANGES][place] / sequences).tolist()
        of_weight = max(0.0, float(self.sums[_WEIGHTS][place]) / sequences)
        numbers = sum(self.model.get_submodule(member).weight.numel() for member in self.members[name])
        for piece in self.pieces(name):
            modules = [self.model.get_submodule(member) for member in piece]
            for column, change in weight_changes(modules, self.fitted[name], name):
                moved = float(change.square_().sum(dtype=torch.float64))
                losses[column] += 0.5 * of_weight / numbers * moved
        return self.where_fitted(name, losses)

    def _signs(self, like: Tensor) -> Tensor:
        drawn = torch.randint(0, 2, like.shape, generator=self._generator, dtype=torch.int8)
        return drawn.to(like.device, like.dtype).mul_(2).sub_(1)

    def _hook(self, name: str, schemes: Sequence[Scheme | None]) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], Tensor) or not args[0].requires_grad:
                return
            self._calls.append((name, args[0]))
            tokens = counted(args[0].detach(), self._keep).float()
            self._numbers[len(self.weights) + len(self._calls) - 1] = tokens.numel()
            for column, error in input_errors(
                [tokens], schemes, lambda change: change.square_().sum(dtype=torch.float64)
            ):
                self.sums[_CHANGES][self.places[name], column] += error

        return watch
