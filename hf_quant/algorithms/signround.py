"""Rounding and clipping learned block by block with signed gradient descent (SignRound, arXiv:2309.05516)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.algorithms.signround_block import BlockRunner, check_scheme
from hf_quant.algorithms.signround_examples import Example, check_finite, drawn, examples_of, mean_loss
from hf_quant.algorithms.signround_rounding import LearnedRounding
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError
from hf_quant.hardware.detect import cpu_features
from hf_quant.registry import unknown

_CHECKS = 5
"""How often, evenly spread over the steps, the loss on all tokens is computed and the best numbers are kept."""

_AUTOCAST_BITS = 4
"""Widest codes for gradients in bfloat16, whose own rounding is small beside theirs."""


@dataclass(frozen=True)
class SignRoundOptions:
    """How long and how fast SignRound learns.

    Args:
        steps: Gradient steps. Their size falls linearly to zero.
        batch_size: Samples in a step. Whole batches are drawn until they hold as many, so batches of calibration data
            should not be larger.
        learning_rate: First step of rounding offsets, in steps of the grid; None: ``1 / steps``.
        minmax_learning_rate: First step of the shares of a range that are kept; None: the learning rate.
        autocast: Whether gradients are computed in bfloat16 autocast; losses are compared in float32 in any case. None:
            where all weights have at most 4 bits and the processor multiplies bfloat16.

    Raises:
        ConfigError: A value is out of range.
    """

    steps: int = 200
    batch_size: int = 8
    learning_rate: float | None = None
    minmax_learning_rate: float | None = None
    autocast: bool | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, not {value!r}")
        for name in ("learning_rate", "minmax_learning_rate"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise ConfigError(f"{name} must be a positive number or None, not {value!r}")
        if not isinstance(self.autocast, bool | None):
            raise ConfigError(f"autocast must be True, False or None, not {self.autocast!r}")


SIGNROUND_PRESETS: dict[str, SignRoundOptions] = {
    "default": SignRoundOptions(),
    "fast": SignRoundOptions(steps=50),
}
"""``default`` is what the paper takes; ``fast`` takes a quarter of the time, for most of what there is to gain."""


@dataclass(frozen=True)
class LearnedBlock:
    """Quantized weights of a block, and mean squared errors of its output.

    Args:
        weights: Best quantized weights that were found, by the linear's name.
        nearest_loss: Mean squared error of the output with weights rounded to nearest.
        loss: Mean squared error of the output with `weights`, at most `nearest_loss`.
        steps: Steps after which `weights` were found; 0: none were better than rounding to nearest.
    """

    weights: dict[str, QuantizedWeight]
    nearest_loss: float
    loss: float
    steps: int


class SignRound:
    """Solver of a block's weights that learns roundings, with the float block's outputs as targets.

    Args:
        options: How long and how fast to learn; None: the defaults.
        **changes: Fields of `SignRoundOptions`, in place of those of `options`.

    Raises:
        ConfigError: No such option, or a value is out of range.
    """

    def __init__(self, options: SignRoundOptions | None = None, /, **changes: Any):
        known = [field.name for field in fields(SignRoundOptions)]
        for name in changes:
            if name not in known:
                raise ConfigError(unknown("option of signround", name, known))
        self.options = SignRoundOptions(**{**asdict(options or SignRoundOptions()), **changes})

    def least_tokens(self, width: int) -> int:
        """As many as each row has roundings to learn: fewer can be fitted at the cost of all others."""
        return width

    def check_scheme(self, scheme: Scheme, name: str) -> None:
        """Raise ConfigError if weights of a scheme have no even grid, in whose steps roundings are learned."""
        check_scheme(scheme, name)

    def solve_block(
        self,
        block: nn.Module,
        schemes: Mapping[str, Scheme],
        batches: list[tuple[Any, Any]],
        targets: list[torch.Tensor],
        keep: list[torch.Tensor | None],
        seed: int,
    ) -> dict[str, QuantizedWeight]:
        """Quantize linears of a block for the least error of its output; for the arguments see `learn`."""
        return self.learn(block, schemes, batches, targets, keep, seed).weights

    def learn(
        self,
        block: nn.Module,
        schemes: Mapping[str, Scheme],
        batches: list[tuple[Any, Any]],
        targets: list[torch.Tensor],
        keep: list[torch.Tensor | None],
        seed: int,
    ) -> LearnedBlock:
        """Quantize linears of `block`, ``nn.Linear`` or ``Conv1D``, for the least error of its output.

        The block and its inputs are computed in float32, whatever their dtype. The block is not changed.

        Args:
            block: Block with float weights. Its inputs hold no caches, since it is run many times.
            schemes: Schemes of the linears to quantize, by their names in `block`.
            batches: Positional and keyword arguments of each call of `block`.
            targets: Outputs to come near, ``[batch, tokens, width]``, one for each of `batches`.
            keep: Tokens that count, bool ``[batch, tokens]`` for each of `batches`; None: all of them.
            seed: Seed of the choice of batches for each step.

        Raises:
            CalibrationError: There are no tokens to learn from, lists or shapes do not fit, or outputs or targets hold
                NaN or Inf.
            ConfigError: A scheme has no even grid.
            UnsupportedModel: A name is not that of a linear.
            WeightError: A weight holds NaN or Inf, or is not a matrix with elements.
        """
        # Targets may come from inference mode, and so may the caller.
        with torch.inference_mode(False), torch.enable_grad():
            name = type(block).__name__
            runner = BlockRunner(block, schemes)
            examples = examples_of(name, batches, targets, keep)
            roundings = {
                key: LearnedRounding(_rows(linear), schemes[key].weight, f"{key} of {name}")
                for key, linear in runner.linears.items()
            }
            with runner.prepared():
                return self._descend(runner, roundings, examples, name, seed)

    def _descend(
        self, runner: BlockRunner, roundings: dict[str, LearnedRounding], examples: list[Example], name: str, seed: int
    ) -> LearnedBlock:
        options = self.options
        weights = {linear: rounding.weight for linear, rounding in roundings.items()}
        best = nearest = mean_loss(runner, weights, examples, name)
        solved, found = {linear: rounding.solved() for linear, rounding in roundings.items()}, 0
        checks = {-(-options.steps * check // _CHECKS) for check in range(1, _CHECKS + 1)}
        rate = options.learning_rate or 1 / options.steps
        clip_rate = options.minmax_learning_rate or rate
        autocast = self._autocasts(roundings)
        generator = torch.Generator().manual_seed(seed)
        for step in range(options.steps if roundings else 0):
            for example in drawn(examples, options.batch_size, generator):
                with torch.autocast(example.target.device.type, torch.bfloat16, enabled=autocast):
                    error = example.error(runner, weights)
                error.backward()
                check_finite(error.item(), name)
            left = 1 - step / options.steps
            for rounding in roundings.values():
                rounding.step(rate * left, clip_rate * left)
            if step + 1 in checks and (loss := mean_loss(runner, weights, examples, name)) < best:
                best, found = loss, step + 1
                solved = {linear: rounding.solved() for linear, rounding in roundings.items()}
        return LearnedBlock(solved, nearest, best, found)

    def _autocasts(self, roundings: dict[str, LearnedRounding]) -> bool:
        if self.options.autocast is not None:
            return self.options.autocast
        is_coarse = all(rounding.scheme.bits <= _AUTOCAST_BITS for rounding in roundings.values())
        on_cpu = all(rounding.weight.device.type == "cpu" for rounding in roundings.values())
        return is_coarse and on_cpu and cpu_features().multiplies_bfloat16


def _rows(linear: nn.Module) -> torch.Tensor:
    weight = linear.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().t() if isinstance(linear, Conv1D) else weight.detach()
