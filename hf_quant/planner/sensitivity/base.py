"""What every measure of sensitivity is: sums over sequences, and the losses that they come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_quant.config.plan import Candidate, fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import unit_of

Losses = list[list[float | None]]
"""Predicted losses ``[module][scheme]``; None where a scheme does not fit."""

_REACHED = "reached"
_AT_ONCE = 2**24
"""Most weights of several experts that are rounded at once."""


class Measure(ABC):
    """One way to measure what a model loses by each scheme for each module.

    All that is learned from data is in `sums`, which add up: over sequences, over processes, and over a run that was
    interrupted and the one that goes on with it.

    All experts of a layer that are planned as one are measured as one, under the name of the first: their losses are
    those of all tokens, each of which goes to some of them.

    Args:
        model: Float model, opened; it is called, and left unchanged.
        schemes: Schemes with integer or float weights; inputs dynamic or not quantized.
        inventory: The model's inventory, if it was made already; None: it is made here.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = True
    """Whether the measure takes the model's loss, and thus labels."""
    in_nats: ClassVar[bool] = True
    """Whether the measure's losses are in the unit of the model's loss, so that a target for them can be given."""

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        self.model, self.schemes = model, tuple(schemes)
        self.inventory = Inventory.of(model) if inventory is None else inventory
        self.candidates = self.inventory.candidates
        self.members = self.inventory.measured()
        """Name of each module that losses are told of to all modules that they are of: itself, or experts."""
        self.fitted: dict[str, tuple[Scheme | None, ...]] = {}
        for first, members in self.members.items():
            schemes_that_fit = tuple(fitted(scheme, self.candidates[first], first) for scheme in self.schemes)
            self.fitted |= dict.fromkeys(members, schemes_that_fit)
        self.owners = {name: self.inventory.ties.get(name, name) for name in self.candidates}
        """Name of each module to the name of the module that owns its weight, mostly itself."""
        self.sums: dict[str, Tensor] = {}
        """Sums over sequences: under a module's name those that only its losses need, under other names shared ones."""
        self.places = {name: index for index, members in enumerate(self.members.values()) for name in members}
        """Name of each module to the row of its losses."""
        if self.inventory.experts:
            self.sums[_REACHED] = torch.zeros(len(self.members), dtype=torch.float64)

    @property
    def unit(self) -> str:
        """Unit of the losses, in words."""
        return unit_of(self.model)

    @property
    def parts(self) -> int:
        """Number of parts that the work on one sequence is divided into, for progress and for processes to share."""
        return 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which `add` works: the model in evaluation mode, with hooks; undone at the end."""
        training = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(self._counting(self.places[name]))
            for name in self.inventory.experts
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, before in training:
                module.training = before

    @abstractmethod
    def add(self, row: Row, part: int) -> None:
        """Run one part of the work on a sequence, and add what it gives to `sums`.

        Raises:
            CalibrationError: The model's loss on the sequence is NaN or infinite.
        """

    @abstractmethod
    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Losses of one module, or of the experts that it is the first of, in the order of `schemes`.

        Args:
            name: Name of one of `members`.
            sequences: Number of sequences that `sums` are over.
        """

    def losses(self, sequences: int) -> Losses:
        """Losses of all `members`, in their order."""
        return [self.losses_of(name, sequences) for name in self.members]

    def not_reached(self) -> list[str]:
        """Experts, by the name of the first, none of which got a token, so that nothing is known of their losses."""
        return [
            first
            for first in self.members
            if first in self.inventory.experts and not self.sums[_REACHED][self.places[first]]
        ]

    def pieces(self, name: str) -> Iterator[list[str]]:
        """Modules that one stands for and whose weights count as their own losses, in lists to be rounded at once."""
        piece: list[str] = []
        size = 0
        for member in filter(self.counts_weight, self.members[name]):
            numbers = self.model.get_submodule(member).weight.numel()
            if piece and size + numbers > _AT_ONCE:
                yield piece
                piece, size = [], 0
            piece.append(member)
            size += numbers
        if piece:
            yield piece

    def counts_weight(self, name: str) -> bool:
        """Whether rounding a module's weight counts as its own loss; a shared weight counts for its owner alone."""
        return self.owners[name] == name

    def where_fitted(self, name: str, losses: Sequence[float]) -> list[float | None]:
        """Losses of one module, one for each scheme, with None for schemes that do not fit it."""
        return [None if scheme is None else loss for scheme, loss in zip(self.fitted[name], losses, strict=True)]

    def zeros(self) -> Tensor:
        """Zeros for sums of one number for each of `members` and each scheme, float64 ``[members, schemes]``."""
        return torch.zeros(len(self.members), len(self.schemes), dtype=torch.float64)

    def _counting(self, place: int) -> Any:
        def count(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.sums[_REACHED][place] += 1

        return count


def fitted(scheme: Scheme, candidate: Candidate, name: str) -> Scheme | None:
    """A scheme as it applies to a module; None where it does not fit."""
    try:
        return fit(scheme, candidate, name)
    except PlanError:
        return None
