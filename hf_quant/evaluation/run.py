"""Both models over all batches of a task, one batch at a time; nothing of the size of the vocabulary is kept."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.batches import batches
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.models import ModelFacts, ModelPair, evaluating
from hf_quant.evaluation.tasks.base import Feature, Result, Task


def run(
    task: Task, pair: ModelPair, features: list[Feature], rows: Rows, facts: ModelFacts, progress: bool
) -> list[Result]:
    """Run both models over all batches of a task; results in the order of the examples.

    Raises:
        EvaluationError: Logits are NaN or not what the task needs, or nothing is left to compare.
    """
    reduced: list[Any] = [None] * len(features)
    with (
        evaluating(pair.reference, pair.quantized),
        tqdm(total=len(features), desc="evaluating", disable=not progress) as bar,
    ):
        for indices, batch in batches(features, task.size(facts), facts.pad):
            found = task.reduce(batch, *pair(batch.tensors, task.call), facts)
            for index, each in zip(indices, found, strict=True):
                reduced[index] = each
            bar.update(len(indices))
    results = task.results(features, reduced, rows)
    if not results:
        raise EvaluationError(f"{rows.name} has nothing for {task.name} to compare: pass more data")
    return results
