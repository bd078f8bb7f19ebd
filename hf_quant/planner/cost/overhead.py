"""What models take besides their linears: measured on small ones, whose linears are known apart."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from hf_quant.modules.linear import QuantizedLinear
from hf_quant.planner.cost.kv_cache import key_value_heads
from hf_quant.planner.cost.latency import attention_operations, linears
from hf_quant.planner.cost.quiet import Quiet
from hf_quant.planner.cost.table import Overhead
from hf_quant.planner.cost.timing import Work, in_turn

SMALL, WIDE, LONG = (128, 1, 1), (256, 64, 8), (256, 512, 1)
"""Hidden size, tokens and sequences of three measured inputs: next to nothing to compute; enough for all threads; and
as many numbers in one sequence, which differs by its attention."""
_DEEP = 5
_CACHED, _CONTEXTS = 768, (16, 512)
"""Hidden size, and numbers of tokens in the cache, that decoding is measured with; the larger is read from memory."""

Build = Callable[[int, int], nn.Module]
"""Function from hidden size and number of blocks to a model without a head, ready to run, without shared key heads."""

Turns = Callable[[Sequence[Work], int], list[list[float]]]
"""Function from works and a factor for the number of rounds to seconds ``[round][work]``, as `timing.in_turn`."""


@torch.inference_mode()
def measure_overhead(
    build: Build,
    family: str,
    kind: str,
    rounds: int = 5,
    turn: float = 0.01,
    decodes: bool = False,
    sharing: Build | None = None,
    quiet: Quiet | None = None,
) -> Overhead:
    """Time that a model takes besides its linears: a block's part, and the part outside the blocks.

    A block is the difference between a deep model and one of a single block, less the linears of a block. Attention is
    how much longer as many tokens take in one sequence than in several. A cache's part is the difference between
    decoding with one and a pass of one token without, and between decoding after many tokens and after few.

    Args:
        build: Makes a model of a hidden size and number of blocks.
        family: Name of the family in the table: ``"llama"``, ``"gpt2"`` or ``"bert"``.
        kind: Kind of the blocks that `build` makes, one of `table.KINDS`.
        rounds: Number of rounds in which the models and their linears are timed in turn.
        turn: Seconds of one timing.
        decodes: Whether the models take a cache of keys and values, which grows while they are timed.
        sharing: Makes such models with query heads that share keys and values, as their ``num_key_value_heads`` says;
            they tell the time for bytes held in the cache from the time for bytes read. None: not told apart.
        quiet: Repeats timings that other processes slow down; None: every timing counts.
    """

    def take(works: Sequence[Work], more: int) -> list[list[float]]:
        return in_turn(works, more * rounds, turn, quiet)

    block, model = _besides(build, *SMALL, take)
    wide, longer = _wide_and_longer(build, take)
    in_wide, in_long = (
        attention_operations(tokens, 0, count, hidden, decodes) for hidden, tokens, count in (WIDE, LONG)
    )
    attention = max(0.0, longer / (in_long - in_wide))
    numbers = math.prod(WIDE) - math.prod(SMALL)
    per_number = max(0.0, (wide - attention * in_wide - block) / numbers)
    found = Overhead(family, kind, block, per_number, model, attention)
    if not decodes:
        return found
    cached, outside = _besides(build, *SMALL, take, _CONTEXTS[0])
    held, read = _per_byte([build] if sharing is None else [build, sharing], take)
    return replace(
        found,
        cache_block=max(0.0, cached - block),
        cache_per_byte=held,
        cache_per_read=read,
        cache_model=max(0.0, outside - model),
    )


def _per_byte(builds: Sequence[Build], take: Turns) -> tuple[float, float]:
    """Milliseconds that a block takes more for each byte that its cache holds, and for each byte that is read.

    Models take turns with long and with short caches. All read as much; those of a second build hold a part of it.
    """
    models = [(build(_CACHED, _DEEP), build(_CACHED, 1)) for build in builds]
    works = [_pass(each, _ids((0, 1, 1)), context) for pair in models for context in _CONTEXTS for each in pair]
    times = take(works, 2)
    read = 2 * _CACHED * (_CONTEXTS[1] - _CONTEXTS[0]) * torch.float32.itemsize
    more = [
        1e3 * statistics.median((row[at + 2] - row[at + 3] - row[at] + row[at + 1]) / (_DEEP - 1) for row in times)
        for at in range(0, len(works), 4)
    ]
    whole = max(0.0, more[0] / read)
    if len(more) == 1:
        return whole, 0.0
    config: Any = models[1][0].config
    saved = read * (1 - key_value_heads(config) / config.num_attention_heads)
    held = min(max(0.0, (more[0] - more[1]) / saved), whole)
    return held, whole - held


def _wide_and_longer(build: Build, take: Turns) -> tuple[float, float]:
    """Milliseconds of a block besides its linears on an input of `WIDE`, and how many more it takes on `LONG`."""
    models = build(WIDE[0], _DEEP), build(WIDE[0], 1)
    works = [_pass(model, _ids(size), 0) for size in (WIDE, LONG) for model in models]
    times = take([*works, _all_linears(models[1], math.prod(WIDE[1:]))], 2)
    wide = statistics.median((row[0] - row[1]) / (_DEEP - 1) - row[4] for row in times)
    longer = statistics.median((row[2] - row[3] - row[0] + row[1]) / (_DEEP - 1) for row in times)
    return 1e3 * wide, 1e3 * longer


def _besides(
    build: Build, hidden: int, tokens: int, sequences: int, take: Turns, context: int = 0
) -> tuple[float, float]:
    """Milliseconds of a block besides its linears, and of the model besides its blocks."""
    deep, shallow = build(hidden, _DEEP), build(hidden, 1)
    ids = _ids((hidden, tokens, sequences))
    works = [_pass(deep, ids, context), _pass(shallow, ids, context), _all_linears(shallow, ids.numel())]
    times = take(works, 1)
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
