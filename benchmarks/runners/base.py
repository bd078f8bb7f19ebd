"""What a way to run a model has to offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


class Skip(RuntimeError):
    """Why a variant cannot be measured here: a library that is missing, a model that it does not take."""


@dataclass(frozen=True)
class Generated:
    """Times of one generation.

    Args:
        prefill: Seconds of the prompt.
        steps: Seconds of each token after it.
        logits: Of the last position of the prompt.
    """

    prefill: float
    steps: list[float] = field(default_factory=list)
    logits: np.ndarray = field(default_factory=lambda: np.empty(0))


class Runner(Protocol):
    """A loaded model."""

    bits: float | None
    """Bits that are read per weight and token, scales included; None where `read_bytes` knows better."""

    def encode(self, ids: np.ndarray) -> tuple[float, np.ndarray]:
        """Seconds of one forward of int64 ``[batch, length]``, and the last hidden states of it."""

    def generate(self, ids: np.ndarray, steps: int, budget: float) -> Generated:
        """The prompt ``[1, length]`` through an empty cache, then greedy steps: at most `steps`.

        After four of them, none is begun when `budget` seconds have passed.
        """

    def read_bytes(self) -> int | None:
        """Bytes of weights that one token reads; None where `bits` says it."""
