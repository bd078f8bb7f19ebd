"""What turns a float weight into codes, and what it may know of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from hf_quant.calibration.pairs import Pair
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.config.scheme import Scheme, TensorScheme

MEANS = 16
"""Tokens whose mean is taken for that of all inputs: a correction by it adds a sixteenth of a token's error."""

QuantizedWeight = dict[str, torch.Tensor]
"""A weight as it goes to disk: the tensors of its format by their names (`formats.base.Format.tensors`)."""


def scaled(statistics: InputStatistics, scales: torch.Tensor) -> InputStatistics:
    """The statistics of ``x / scales``, from those of ``x``; `scales` are positive floats ``[width]``."""
    factor = scales.reciprocal()
    hessian = statistics.hessian
    return replace(
        statistics,
        mean=statistics.mean * factor,
        mean_abs=statistics.mean_abs * factor,
        max_abs=statistics.max_abs * factor,
        hessian=None if hessian is None else hessian * factor * factor[:, None],
    )


@dataclass(frozen=True)
class Transformed:
    """What a transform did to a block.

    Args:
        inputs: Input statistics by the linear's name, as they are after the change of the block.
        report: A line for each pair or linear: what was chosen, and what was gained.
    """

    inputs: dict[str, InputStatistics]
    report: list[str]


class Transform(Protocol):
    """Float weights to float weights that lose less when they are quantized."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `InputStatistics` that `apply` takes."""

    def apply(
        self,
        block: nn.Module,
        pairs: Sequence[Pair],
        inputs: Mapping[str, InputStatistics],
        schemes: Mapping[str, Scheme],
    ) -> Transformed:
        """Change the parameters of `block` in place; unless a transform says otherwise, it computes the same after.

        Where there is nothing to do, a warning says so, and nothing changes.

        Args:
            block: Block of float linears and norms; changed in place.
            pairs: Pairs of the block, from `calibration.pairs.find_pairs`.
            inputs: Statistics by the linear's name in the block; required of linears that are quantized.
            schemes: Schemes of the linears that are quantized, by the linear's name; others stay float.

        Raises:
            CalibrationError: Statistics are missing, or hold NaN or Inf.
            WeightError: A weight holds NaN or Inf.
        """


class Solver(Protocol):
    """Weight to codes. Solvers declare what they need to know of the inputs; workflows supply it."""

    needs: frozenset[str]
    """Fields of `InputStatistics` that `solve` takes: any of ``"mean"``, ``"hessian"`` and the others, or none."""

    def least_tokens(self, width: int) -> int:
        """Tokens below which statistics of `width` inputs are worse than none; 0 where `solve` takes none."""

    def solve(
        self, weight: torch.Tensor, scheme: TensorScheme, name: str, inputs: InputStatistics | None = None
    ) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats; `name` is for error messages.

        Statistics are of inputs as they come; where the scheme rotates, weight and statistics are rotated alike.

        Raises:
            WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
        """


class BlockSolver(Protocol):
    """Weights of a block of a model to codes, together, for the least error of the block's output."""

    def least_tokens(self, width: int) -> int:
        """Tokens below which a weight of `width` inputs had better be rounded to nearest."""

    def check_scheme(self, scheme: Scheme, name: str) -> None:
        """Raise ConfigError, which names the formats that fit, if weights of `scheme` cannot be solved.

        `name` is that of a linear, for the message; asked before anything else is done.
        """

    def solve_block(
        self,
        block: nn.Module,
        schemes: Mapping[str, Scheme],
        batches: list[tuple[Any, Any]],
        targets: list[torch.Tensor],
        keep: list[torch.Tensor | None],
        seed: int,
    ) -> dict[str, QuantizedWeight]:
        """Quantize the linears that `schemes` names; the block itself is not changed, even where an error is raised.

        Args:
            block: Block of a model, in float32 or bfloat16.
            schemes: Schemes of the linears to quantize, by their names within `block`.
            batches: Positional and keyword arguments of calls of the block.
            targets: Outputs of the float block, ``[batch, tokens, width]``, one for each of `batches`.
            keep: Tokens that count, bool ``[batch, tokens]`` for each of `batches`; None: all of them.
            seed: Seed of every random choice.

        Raises:
            CalibrationError: Batches, targets or masks are not usable.
            WeightError: A weight holds NaN or Inf, or is not a matrix with elements.
        """
