"""What models take besides their linears: measured on small ones, whose linears are known apart."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
from torch import nn

from hf_quant.modules.linear import QuantizedLinear
from hf_quant.planner.cost.latency import linears
from hf_quant.planner.cost.table import Overhead
from hf_quant.planner.cost.timing import Work, in_turn

SMALL, LARGE = (128, 1), (256, 64)
"""Hidden sizes and tokens that are measured: next to nothing to compute, and enough to see what grows."""
_DEEP = 5

Build = Callable[[int, int], nn.Module]
"""Hidden size and number of blocks to a model without a head, ready to run."""


@torch.inference_mode()
def measure_overhead(
    build: Build, family: str, quantized: bool, multiply: float, rounds: int = 5, turn: float = 0.01
) -> Overhead:
    """Blocks, as the difference between a deep model and one of a single block, less the linears of a block.

    Args:
        build: Makes the models.
        family: Name for the table.
        quantized: Whether `build` makes quantized ones.
        multiply: Rate of float32 products, which attention's share is taken out with: predictions add it by themselves.
        rounds: Of turns of the models and of their linears.
        turn: Seconds.
    """
    block, model = _besides(build, *SMALL, rounds, turn)
    large, _ = _besides(build, *LARGE, rounds, turn)
    hidden, tokens = LARGE
    large -= 1e3 * 4 * tokens**2 * hidden / multiply
    numbers = hidden * tokens - SMALL[0] * SMALL[1]
    return Overhead(family, quantized, block, max(0.0, (large - block) / numbers), model)


def _besides(build: Build, hidden: int, tokens: int, rounds: int, turn: float) -> tuple[float, float]:
    """Milliseconds of a block besides its linears, and of the model besides its blocks."""
    deep, shallow = build(hidden, _DEEP), build(hidden, 1)
    ids = torch.arange(tokens)[None] % 64 + 4
    works: list[Work] = [lambda: deep(input_ids=ids), lambda: shallow(input_ids=ids), _all_linears(shallow, tokens)]
    times = in_turn(works, rounds, turn)
    per_block = statistics.median((row[0] - row[1]) / (_DEEP - 1) for row in times)
    alone = statistics.median(row[2] for row in times)
    outside = statistics.median(row[1] for row in times) - per_block
    return 1e3 * (per_block - alone), 1e3 * outside


def _all_linears(model: nn.Module, tokens: int) -> Work:
    calls = []
    for linear in linears(model):
        module = copy.deepcopy(model.get_submodule(linear.name))
        if isinstance(module, QuantizedLinear):
            module.siblings = None  # alone, as in the table
        calls.append((module, torch.randn(tokens, linear.inputs)))

    def work() -> None:
        for module, input in calls:
            module(input)

    return work
