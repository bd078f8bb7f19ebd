"""What models take besides their linears: measured on small ones, whose linears are known apart."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from hf_quant.modules.linear import QuantizedLinear
from hf_quant.planner.cost.latency import attention_operations, linears
from hf_quant.planner.cost.table import Overhead
from hf_quant.planner.cost.timing import Work, in_turn

SMALL, WIDE, LONG = (128, 1, 1), (256, 64, 8), (256, 512, 1)
"""Hidden sizes, tokens and sequences that are measured: next to nothing to compute; as much as all threads share; and
as many numbers, but of one sequence, which differs by its attention."""
_DEEP = 5
_CACHED, _CONTEXTS = 768, (16, 512)
"""Hidden size, and tokens in the cache, that decoding is measured with: keys and values that are copied from memory."""

Build = Callable[[int, int], nn.Module]
"""Hidden size and number of blocks to a model without a head, ready to run."""


@torch.inference_mode()
def measure_overhead(
    build: Build,
    family: str,
    kind: str,
    rounds: int = 5,
    turn: float = 0.01,
    decodes: bool = False,
) -> Overhead:
    """Blocks, as the difference between a deep model and one of a single block, less the linears of a block.

    As many numbers in one sequence as in several take longer by their attention; what a cache takes is the difference
    between decoding with one and a pass of one token without, and between decoding after many tokens and after few.

    Args:
        build: Makes the models.
        family: Name for the table.
        kind: Of the blocks that `build` makes, one of `table.KINDS`.
        rounds: Of turns of the models and of their linears.
        turn: Seconds.
        decodes: Whether the models take a cache of keys and values, which grows while they are timed.
    """
    block, model = _besides(build, *SMALL, rounds, turn)
    wide, longer = _wide_and_longer(build, 2 * rounds, turn)
    in_wide, in_long = (
        attention_operations(tokens, 0, count, hidden, decodes) for hidden, tokens, count in (WIDE, LONG)
    )
    attention = max(0.0, longer / (in_long - in_wide))
    numbers = math.prod(WIDE) - math.prod(SMALL)
    per_number = max(0.0, (wide - attention * in_wide - block) / numbers)
    found = Overhead(family, kind, block, per_number, model, attention)
    if not decodes:
        return found
    cached, outside = _besides(build, *SMALL, rounds, turn, _CONTEXTS[0])
    return replace(
        found,
        cache_block=max(0.0, cached - block),
        cache_per_byte=max(0.0, _per_byte(build, 2 * rounds, turn)),
        cache_model=max(0.0, outside - model),
    )


def _per_byte(build: Build, rounds: int, turn: float) -> float:
    """Milliseconds of a block for each byte more in its cache: models take turns with long and with short caches."""
    models, ids = (build(_CACHED, _DEEP), build(_CACHED, 1)), torch.tensor([[5]])
    times = in_turn([_pass(model, ids, context) for context in _CONTEXTS for model in models], rounds, turn)
    more = statistics.median((row[2] - row[3] - row[0] + row[1]) / (_DEEP - 1) for row in times)
    return 1e3 * more / (2 * _CACHED * (_CONTEXTS[1] - _CONTEXTS[0]) * torch.float32.itemsize)


def _wide_and_longer(build: Build, rounds: int, turn: float) -> tuple[float, float]:
    """Milliseconds of a block of `WIDE` besides its linears, and how many more one of `LONG` takes."""
    models = build(WIDE[0], _DEEP), build(WIDE[0], 1)
    works = [_pass(model, _ids(size), 0) for size in (WIDE, LONG) for model in models]
    times = in_turn([*works, _all_linears(models[1], math.prod(WIDE[1:]))], rounds, turn)
    wide = statistics.median((row[0] - row[1]) / (_DEEP - 1) - row[4] for row in times)
    longer = statistics.median((row[2] - row[3] - row[0] + row[1]) / (_DEEP - 1) for row in times)
    return 1e3 * wide, 1e3 * longer


def _besides(
    build: Build, hidden: int, tokens: int, sequences: int, rounds: int, turn: float, context: int = 0
) -> tuple[float, float]:
    """Milliseconds of a block besides its linears, and of the model besides its blocks."""
    deep, shallow = build(hidden, _DEEP), build(hidden, 1)
    ids = _ids((hidden, tokens, sequences))
    works = [_pass(deep, ids, context), _pass(shallow, ids, context), _all_linears(shallow, ids.numel())]
    times = in_turn(works, rounds, turn)
    blocks = [(row[0] - row[1]) / (_DEEP - 1) for row in times]
    besides = statistics.median(block - row[2] for block, row in zip(blocks, times, strict=True))
    outside = statistics.median(row[1] - block for block, row in zip(blocks, times, strict=True))
    return 1e3 * besides, 1e3 * outside


def _ids(size: tuple[int, int, int]) -> torch.Tensor:
    return (torch.arange(size[1]) % 64 + 4).expand(size[2], -1)


def _pass(model: nn.Module, ids: torch.Tensor, context: int) -> Work:
    if not context:
        options = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}
        return lambda: model(input_ids=ids, **options)
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.arange(context)[None] % 64 + 4, past_key_values=cache, use_cache=True)
    return lambda: model(input_ids=ids, past_key_values=cache, use_cache=True)


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
