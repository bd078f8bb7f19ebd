"""Predicted times held against measured ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from hf_quant.errors import ConfigError
from hf_quant.planner.cost.latency import Latency, Pass, predict_latency, takes_logits_to_keep
from hf_quant.planner.cost.quiet import Quiet
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.cost.table_file import this_machine
from hf_quant.planner.cost.timing import Quartiles, quartiles


@dataclass(frozen=True)
class Comparison:
    """Predicted and measured time of one forward pass.

    Args:
        predicted: Predicted milliseconds, by what takes them.
        measured: Quartiles of the measured milliseconds, over the passes that were timed.
    """

    predicted: Latency
    measured: Quartiles

    @property
    def error(self) -> float:
        """Relative error of the prediction: 0.1 where it is a tenth too high, below 0 where it is too low."""
        return self.predicted.total / self.measured.median - 1


def compare_latency(model: Any, table: KernelTable, step: Pass, passes: int = 20) -> Comparison:
    """Time a model on random tokens and compare with the predicted time.

    Args:
        model: Float or quantized, on this machine's CPU.
        table: Kernel times measured on this machine.
        step: The forward pass to time; with a context, the model has to be a decoder. `logits` only for models that
            take ``logits_to_keep``.
        passes: Number of passes to time, after two that are not timed.

    Raises:
        ConfigError: The table is of another machine, library or number of threads.
    """
    here = this_machine()
    if table.machine != here:
        raise ConfigError(f"the kernel table is of {table.machine}, this is {here}: measure with `hf-quant hardware`")
    return Comparison(predict_latency(model, table, step), time_pass(model, step, passes))


@torch.inference_mode()
def time_pass(model: Any, step: Pass, passes: int = 20, quiet: Quiet | None = None) -> Quartiles:
    """Milliseconds of a forward pass of a model on random tokens.

    Args:
        model: Float or quantized, on this machine's CPU.
        step: The forward pass to time; with a context, the model has to be a decoder.
        passes: Number of passes to time, after two that are not timed.
        quiet: Repeats passes that other processes slow down and leaves out those that stay slow; None: all count.

    Raises:
        ConfigError: `logits` is given for a model that computes all.
    """
    options: dict[str, Any] = {}
    if takes_logits_to_keep(model):
        options["logits_to_keep"] = step.logits or 0
    elif step.logits is not None:
        raise ConfigError(f"{type(model).__name__} computes all logits: leave `logits` None")
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (step.batch, step.tokens))
    if step.context:
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        # It grows as it does in writing, around the length that is asked for, and by passes that are repeated.
        begin = max(1, step.context - (passes + 2) * step.tokens // 2)
        model(torch.randint(vocabulary, (step.batch, begin)), past_key_values=cache, use_cache=True)
        options["past_key_values"] = cache
    elif hasattr(model.config, "use_cache"):
        options["use_cache"] = False

    def milliseconds() -> float:
        start = time.perf_counter()
        model(ids, **options)
        return 1e3 * (time.perf_counter() - start)

    for _ in range(2):
        milliseconds()
    if quiet is None:
        return quartiles([milliseconds() for _ in range(passes)])
    return quartiles(quiet.quietest([quiet.time(milliseconds) for _ in range(passes)]))
