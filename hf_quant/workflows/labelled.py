"""Labelled examples for classifiers, one sequence each, as plans are searched with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_quant.errors import CalibrationError, MissingDependency
from hf_quant.evaluation.models import model_facts


def is_classifier(model: Any) -> bool:
    """Whether a model classifies whole texts."""
    return type(model).__name__.endswith("ForSequenceClassification")


def labelled_examples(
    model: Any,
    tokenizer: Any,
    data: Any,
    samples: int,
    *,
    max_length: int | None = None,
    split: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    labels: Mapping[Any, Any] | None = None,
    seed: int = 0,
) -> list[dict[str, Tensor]]:
    """Labelled examples as batches of one: int64 ``input_ids`` ``[1, tokens]`` and the like, and ``labels``.

    Labels are classes, int64 ``[1]``; scores, ``[1]`` or ``[1, scores]``; or of several, 0 or 1 each, ``[1, labels]``.

    Args:
        model: Classifier of texts, or a regression of one score.
        tokenizer: Tokenizer of the model.
        data: Dataset, list, file or id of a dataset on the Hub, as `hf_quant.evaluate_drop` takes it.
        samples: Most examples, drawn at random.
        max_length: Tokens that texts are cut to, at most as many as the model reads; None for as many as it reads.
        split: Split of a dataset given by id; None for ``train``.
        text_column: Column of the texts; None to look for usual names.
        label_column: Column of the labels; None to look for usual names.
        labels: Labels of the data to the model's classes, if their names do not match.
        seed: Seed of the examples that are drawn, and of their order.

    Raises:
        CalibrationError: There is no tokenizer.
        EvaluationError: Columns are missing, labels are unknown, or there is no such data.
        MissingDependency: The packages `evaluate` and `datasets` are not installed.
    """
    try:
        from hf_quant.evaluation.data import open_rows
        from hf_quant.evaluation.tasks.text_classification import TextClassification
    except ImportError as error:
        if error.name not in ("evaluate", "datasets"):
            raise
        raise MissingDependency(
            f'the package {error.name!r} is not installed: pip install "hf-quant[evaluate]"'
        ) from error
    if tokenizer is None:
        raise CalibrationError("there is no tokenizer beside the model: save one there, for the texts")
    rows = open_rows(data, split, samples, seed, training=True)
    facts = model_facts(model, tokenizer)
    lengths = [length for length in (max_length, facts.positions) if length is not None]
    task = TextClassification(
        max_length=min(lengths, default=None), text_column=text_column, label_column=label_column, labels=labels
    )
    found = []
    for feature in task.fitted(facts).features(rows, facts):
        example = {name: torch.tensor([ids]) for name, ids in feature.sequences[0].items()}
        found.append({**example, "labels": torch.tensor([feature.notes])})
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [found[index] for index in order]
