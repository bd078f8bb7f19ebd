"""What every measure of sensitivity is: sums over sequences, and the losses that they come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_quant.config.plan import Candidate, fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.sensitivity.sequences import Sequence as Row
from hf_quant.planner.sensitivity.sequences import unit_of

Losses = list[list[float | None]]
"""``[module][scheme]``; None where a scheme does not fit."""


class Measure(ABC):
    """One way to tell what a model loses by each scheme for each module.

    All that is learned from data is in `sums`, which add up: over sequences, over processes, and over a run that was
    interrupted and the one that goes on with it.

    Args:
        model: Float. It is called, and is as it was afterwards.
        schemes: With integer or float weights; inputs dynamic or none.
        inventory: Of the model, where it was made already.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = True
    """Whether it takes the model's loss, and thus labels."""
    in_nats: ClassVar[bool] = True
    """Whether its losses are those of the model, so that a target for them can be given."""

    def __init__(self, model: Any, schemes: Sequence[Scheme], inventory: Inventory | None = None):
        self.model, self.schemes = model, tuple(schemes)
        self.inventory = Inventory.of(model) if inventory is None else inventory
        self.candidates = self.inventory.candidates
        self.fitted = {
            name: tuple(_fitted(scheme, candidate, name) for scheme in self.schemes)
            for name, candidate in self.candidates.items()
        }
        self.owners = {name: self.inventory.ties.get(name, name) for name in self.candidates}
        """Of each module, the one whose weight it shares, or itself."""
        self.sums: dict[str, Tensor] = {}
        """Under the name of a module what only `losses_of` that module reads, under other names what all read."""
        self.places = {name: index for index, name in enumerate(self.candidates)}

    @property
    def unit(self) -> str:
        """Of the losses, in words."""
        return unit_of(self.model)

    @property
    def parts(self) -> int:
        """In how many parts the work on one sequence comes, for progress and for processes to share."""
        return 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """The model in evaluation mode, and whatever else `add` needs; undone at the end."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @abstractmethod
    def add(self, row: Row, part: int) -> None:
        """Add one part of what a sequence says to `sums`.

        Raises:
            CalibrationError: The model's loss on it is NaN or infinite.
        """

    @abstractmethod
    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """What the sums over so many sequences come to for a module, in the order of `schemes`."""

    def losses(self, sequences: int) -> Losses:
        """`losses_of` every module, in the order of `candidates`."""
        return [self.losses_of(name, sequences) for name in self.candidates]

    def counts_weight(self, name: str) -> bool:
        """Whether rounding a module's weight counts as its own loss: one that is shared counts as its owner's."""
        return self.owners[name] == name

    def where_fitted(self, name: str, losses: Sequence[float]) -> list[float | None]:
        """`losses`, one for each scheme, but None for those that do not fit a module."""
        return [None if scheme is None else loss for scheme, loss in zip(self.fitted[name], losses, strict=True)]

    def zeros(self) -> Tensor:
        """Sums of one number for each module and scheme."""
        return torch.zeros(len(self.candidates), len(self.schemes), dtype=torch.float64)


def _fitted(scheme: Scheme, candidate: Candidate, name: str) -> Scheme | None:
    try:
        return fit(scheme, candidate, name)
    except PlanError:
        return None
