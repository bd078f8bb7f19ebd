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
"""Predicted losses ``[module][scheme]``; None where a scheme does not fit."""


class Measure(ABC):
    """One way to measure what a model loses by each scheme for each module.

    All that is learned from data is in `sums`, which add up: over sequences, over processes, and over a run that was
    interrupted and the one that goes on with it.

    Args:
        model: Float model; it is called, and left unchanged.
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
        self.fitted = {
            name: tuple(_fitted(scheme, candidate, name) for scheme in self.schemes)
            for name, candidate in self.candidates.items()
        }
        self.owners = {name: self.inventory.ties.get(name, name) for name in self.candidates}
        """Name of each module to the name of the module that owns its weight, mostly itself."""
        self.sums: dict[str, Tensor] = {}
        """Sums over sequences: under a module's name those that only its losses need, under other names shared ones."""
        self.places = {name: index for index, name in enumerate(self.candidates)}

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
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @abstractmethod
    def add(self, row: Row, part: int) -> None:
        """Run one part of the work on a sequence, and add what it gives to `sums`.

        Raises:
            CalibrationError: The model's loss on the sequence is NaN or infinite.
        """

    @abstractmethod
    def losses_of(self, name: str, sequences: int) -> list[float | None]:
        """Losses of one module from the sums over `sequences` sequences, in the order of `schemes`."""

    def losses(self, sequences: int) -> Losses:
        """Losses of all modules, in the order of `candidates`."""
        return [self.losses_of(name, sequences) for name in self.candidates]

    def counts_weight(self, name: str) -> bool:
        """Whether rounding a module's weight counts as its own loss; a shared weight counts for its owner alone."""
        return self.owners[name] == name

    def where_fitted(self, name: str, losses: Sequence[float]) -> list[float | None]:
        """Losses of one module, one for each scheme, with None for schemes that do not fit it."""
        return [None if scheme is None else loss for scheme, loss in zip(self.fitted[name], losses, strict=True)]

    def zeros(self) -> Tensor:
        """Zeros for sums of one number for each module and scheme, float64 ``[modules, schemes]``."""
        return torch.zeros(len(self.candidates), len(self.schemes), dtype=torch.float64)


def _fitted(scheme: Scheme, candidate: Candidate, name: str) -> Scheme | None:
    try:
        return fit(scheme, candidate, name)
    except PlanError:
        return None
