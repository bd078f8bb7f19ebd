"""Second-order losses with the empirical Fisher matrix in the place of the Hessian, diagonal (cf. arXiv:2306.07629).

Quantizing moves a weight by ``d`` and the loss by about ``d^T H d / 2``, the gradient being nearly zero in a trained
model. With ``H`` replaced by the mean of squared gradients of single tokens' losses, its diagonal alone,

    loss = 1/2 * sum_w F_w d_w^2,    F_w = mean over tokens of g_w^2,

and likewise for inputs, whose errors are those of each token. One backward pass a sequence serves all schemes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.calibration.statistics import counted
from hf_quant.config.scheme import Scheme
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.base import Measure
from hf_quant.planner.sensitivity.gradients import gradients_of, require_finite
from hf_quant.planner.sensitivity.rounded import input_errors, weight_changes
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import counted_losses, kept_of

_INPUTS = "inputs"


class Fisher(Measure):
    """Sensitivity by the Fisher diagonal: half the squared change of weights and inputs, times mean squared gradients.

    Memory: beside the model, its gradients once and squares of gradients once, in float32.
    """

    name = "fisher"

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        super().__init__(model, schemes, inventory)
        self.weights: dict[str, nn.Parameter] = {
            name: model.get_submodule(name).weight for name in self.candidates if self.counts_weight(name)
        }
        self.sums |= {
            name: torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            for name, weight in self.weights.items()
        }
        self.sums[_INPUTS] = self.zeros()
        self._counted = 1
        # Of experts that are measured as one, inputs are rounded together.
        self._called: Counter[int] = Counter()
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._keep: Tensor | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which `add` works: gradients of the weights, and hooks on modules whose inputs may be rounded."""
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(self._hook(self.places[name]))
            for name, schemes in self.fitted.items()
            if any(scheme is not None and scheme.input is not None for scheme in schemes)
        ]
        try:
            with super().running(), gradients_of(self.model, list(self.weights.values())):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, row: Row, part: int) -> None:
        """Add the squared gradients of a sequence's weights, and its weighted input errors, to `sums`."""
        self._counted, self._keep = counted_losses(row), kept_of(row)
        self._called, self._seen = Counter(), {}
        loss = self.model(**row).loss
        require_finite(loss)
        (loss * self._counted).backward()
        for name, weight in self.weights.items():
            if weight.grad is not None:
                self.sums[name].addcmul_(weight.grad.float(), weight.grad.float(), value=1 / self._counted)
                weight.grad = None
        for index in list(self._seen):
            self._add_inputs(index)

    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Losses of one module, for its weight and its inputs, in the order of `schemes`."""
        by_input = (0.5 * self.sums[_INPUTS][self.places[name]] / sequences).tolist()
        by_weight = [0.0] * len(self.schemes)
        for piece in self.pieces(name):
            modules = [self.model.get_submodule(member) for member in piece]
            squares = [weight_matrix(m, self.sums[member]) for m, member in zip(modules, piece, strict=True)]
            mean = torch.cat(squares).div_(sequences)
            for column, change in weight_changes(modules, self.fitted[name], name):
                by_weight[column] += 0.5 * float((change.square_() * mean).sum())
        return self.where_fitted(name, [one + other for one, other in zip(by_weight, by_input, strict=True)])

    def _hook(self, index: int) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], Tensor) or not args[0].requires_grad:
                return
            real = args[0].detach()
            self._called[index] += 1

            def take(gradient: Tensor) -> None:
                seen = self._seen.setdefault(index, [])
                tokens, slopes = (counted(each, self._keep).float() for each in (real, gradient.detach()))
                seen.append((tokens, slopes))
                if len(seen) == self._called[index]:
                    self._add_inputs(index)

            args[0].register_hook(take)

        return watch

    def _add_inputs(self, index: int) -> None:
        calls, gradients = zip(*self._seen.pop(index), strict=True)
        square = torch.cat(gradients).square_()
        schemes = self.fitted[list(self.members)[index]]
        for column, error in input_errors(calls, schemes, lambda change: (square * change.square_()).sum()):
            self.sums[_INPUTS][index, column] += error / self._counted
