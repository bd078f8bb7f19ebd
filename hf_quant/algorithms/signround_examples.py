"""What a block learns from: batches of its inputs, with the outputs to come near and the tokens that count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from hf_quant.algorithms.signround_block import BlockRunner
from hf_quant.errors import CalibrationError


@dataclass(frozen=True)
class Example:
    """One batch of a block's inputs, with the output to learn.

    Args:
        args: Positional arguments of the block.
        kwargs: Keyword arguments of the block.
        target: Output ``[batch, tokens, width]`` to come near.
        keep: Tokens that count, bool ``[batch, tokens]``; None: all of them.
    """

    args: Any
    kwargs: Any
    target: torch.Tensor
    keep: torch.Tensor | None

    @property
    def samples(self) -> int:
        """Number of rows in the batch."""
        return self.target.shape[0]

    @property
    def numbers(self) -> int:
        """Number of outputs that count."""
        return self.target.numel() if self.keep is None else int(self.keep.sum()) * self.target.shape[-1]

    def error(self, runner: BlockRunner, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of squared differences between output and target, with a graph where gradients are enabled."""
        output = runner.run(weights, self.args, self.kwargs)
        target = self.target
        if self.keep is not None:
            output, target = output[self.keep], target[self.keep]
        return (output.to(torch.float32) - target.detach().to(torch.float32)).square().sum()


def examples_of(
    name: str, batches: list[tuple[Any, Any]], targets: list[torch.Tensor], keep: list[torch.Tensor | None]
) -> list[Example]:
    """Examples of all batches with a token that counts; `name` is that of the block, for messages.

    Raises:
        CalibrationError: Nothing counts anywhere, the lists or the shapes of masks do not fit, or there is a cache.
    """
    if not len(batches) == len(targets) == len(keep):
        raise CalibrationError(
            f"{name} has {len(batches)} batches of inputs, {len(targets)} of targets and {len(keep)} masks: "
            "give one of each for every batch"
        )
    for target, mask in zip(targets, keep, strict=True):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != target.shape[:-1]):
            raise CalibrationError(
                f"a mask for {name} is {mask.dtype} {list(mask.shape)}; it must be bool {list(target.shape[:-1])}"
            )
    if any(isinstance(value, Cache) for args, kwargs in batches for value in (*args, *kwargs.values())):
        raise CalibrationError(f"{name} was called with a cache, which would grow with each run: pass use_cache=False")
    triples = zip(batches, targets, keep, strict=True)
    examples = [Example(args, kwargs, target, mask) for (args, kwargs), target, mask in triples]
    examples = [example for example in examples if example.numbers]
    if not examples:
        raise CalibrationError(
            f"no token is left to calibrate {name} with: give texts, and masks that keep some tokens"
        )
    return examples


def drawn(examples: list[Example], samples: int, generator: torch.Generator) -> list[Example]:
    """Different examples in random order, until they hold `samples` or there are no more."""
    chosen: list[Example] = []
    for index in torch.randperm(len(examples), generator=generator).tolist():
        chosen.append(examples[index])
        samples -= examples[index].samples
        if samples <= 0:
            break
    return chosen


def mean_loss(runner: BlockRunner, weights: Mapping[str, torch.Tensor], examples: list[Example], name: str) -> float:
    """Mean squared error over everything that counts; `name` is that of the block.

    Raises:
        CalibrationError: The error is not finite.
    """
    with torch.no_grad():
        total = sum(example.error(runner, weights).item() for example in examples)
    check_finite(total, name)
    return total / sum(example.numbers for example in examples)


def check_finite(error: float, name: str) -> None:
    """Raise CalibrationError if `error`, of the block `name`, is NaN or infinite."""
    if not math.isfinite(error):
        raise CalibrationError(
            f"outputs or targets of {name} hold NaN or Inf: look for them in its weights and in the calibration data, "
            "or keep the block float with modules_to_not_convert"
        )
