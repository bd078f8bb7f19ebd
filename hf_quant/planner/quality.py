"""What a model is worth on data: what plans are judged by when they are measured. Smaller is better in every case."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed

from hf_quant.errors import CalibrationError
from hf_quant.planner.processes import place
from hf_quant.planner.sensitivity.sequences import IGNORED, sequences_of, writes_text
from hf_quant.registry import Registry

Quality: TypeAlias = Callable[[Any, Sequence[Mapping[str, Tensor]]], float]
"""Function from a float or quantized model and batches, as `analyse` takes them, to a number; smaller is better."""


@torch.no_grad()
def mean_loss(model: Any, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean over sequences of the loss that the model computes, in evaluation mode.

    In ``torch.distributed``, each process computes a share, and all get the mean over all sequences.

    Args:
        model: Float or quantized model with a head that computes a loss.
        batches: Batches of ``input_ids``, ``attention_mask``, and ``labels`` unless the model writes text.

    Raises:
        CalibrationError: There are no labels for a model that does not write text.
    """
    return _mean(model, batches, lambda row, output: (float(output.loss), 1))


@torch.no_grad()
def error_rate(model: Any, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Share of wrong answers, 0 to 1: 1 less the accuracy of classes, of labelled tokens, or of next tokens.

    Raises:
        CalibrationError: There are no labels for a model that does not write text, or labels are not classes, as those
            of a regression.
    """

    def wrong(row: Mapping[str, Tensor], output: Any) -> tuple[float, int]:
        logits, labels = output.logits, row["labels"]
        if writes_text(model):
            logits, labels = logits[:, :-1], labels[:, 1:]
        if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
            raise CalibrationError(
                "accuracy takes labels that are numbers of classes, one for each row of logits; judge by loss"
            )
        counted = labels != IGNORED
        return float(((logits.argmax(-1) != labels) & counted).sum()), int(counted.sum())

    return _mean(model, batches, wrong)


_HERE = "hf_quant.planner.quality"

QUALITIES = Registry("metric of plans", {"loss": f"{_HERE}:mean_loss", "accuracy": f"{_HERE}:error_rate"})
"""Names of metrics to functions of the type `Quality`."""


def _mean(model: Any, batches: Sequence[Mapping[str, Tensor]], weigh: Callable[[Any, Any], tuple[float, int]]) -> float:
    rank, ranks = place()
    training = model.training
    model.eval()
    try:
        rows = list(sequences_of(batches, model, labelled=True))[rank::ranks]
        found = [weigh(row, model(**row)) for row in rows]
    finally:
        model.train(training)
    sums = torch.tensor([math.fsum(value for value, _ in found), sum(count for _, count in found)], dtype=torch.float64)
    if ranks > 1:
        distributed.all_reduce(sums)
    if not sums[1]:
        raise CalibrationError("no answer has a label: give data with labels")
    return float(sums[0] / sums[1])
