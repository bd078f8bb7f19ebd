"""Precision, recall and F1 of whole entities in sequences of tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_quant.evaluation.metrics.base import SEQUENCES, Items, SummedMetric, ratio
from hf_quant.evaluation.statistics import Floats


class EntityF1(SummedMetric):
    """Precision, recall and F1 of entities whose type, first and last word are right, over all sentences and types.

    Predictions and references are lists of tags, one a word: ``O``, ``B-TYPE`` and ``I-TYPE``, and ``E-``, ``L-``,
    ``S-`` and ``U-`` where a scheme has them. As in CoNLL's evaluation, an entity also begins where an ``I-`` follows
    ``O`` or another type; tags without a prefix are entities as long as they are repeated.
    """

    summary = "Precision, recall and F1 of whole entities, over all types."
    needs = SEQUENCES

    def _features(self) -> dict[str, Any]:
        tags = datasets.Sequence(datasets.Value("string"))
        return {"predictions": tags, "references": tags}

    def contributions(self, predictions: Items, references: Items, labels: Sequence[Any]) -> Floats:
        """Numbers of correct, predicted and true entities in each sentence, float64 ``[sentences, 3]``."""
        pairs = [(entities(found), entities(right)) for found, right in zip(predictions, references, strict=True)]
        return np.array([[len(f & r), len(f), len(r)] for f, r in pairs], float).reshape(-1, 3)

    def finish(self, sums: Floats) -> dict[str, Floats]:
        """F1, precision and recall from sums over sentences."""
        hit, predicted, there = np.moveaxis(sums, -1, 0)
        return {
            "f1": ratio(2 * hit, predicted + there),
            "precision": ratio(hit, predicted),
            "recall": ratio(hit, there),
        }


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Entities of a sentence from its tags, each as ``(type, first word, last word)``."""
    found = set()
    kind, start, ended = "", 0, True
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, its_kind = tag.partition("-") if tag[1:2] == "-" else ("I", "-", tag)
        outside = tag == "O" or prefix == "O"
        begins = outside or ended or prefix in "BSU" or its_kind != kind
        if begins and kind:
            found.add((kind, start, index - 1))
            kind = ""
        if not outside:
            if begins:
                kind, start = its_kind, index
            ended = prefix in "SUEL"
        else:
            ended = True
    return found
