"""Sentence similarity: cosines of sentence embeddings against what people say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import require_finite
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.encoding import encode
from hf_quant.registry import unknown

_POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class SentenceSimilarity(Task):
    """Sentence similarity: the cosine of two sentences' embeddings, against a similarity that people gave.

    Args:
        text_column: Column of the first sentences; None for ``sentence1``, ``text1`` or ``premise``.
        pair_column: Column of the second sentences; None for ``sentence2``, ``text2`` or ``hypothesis``.
        label_column: Column of the similarities, numbers in any unit, higher for more alike; None for ``score``,
            ``label`` or ``similarity_score``.
        pooling: How a sentence's hidden states become an embedding: their ``"mean"``, or ``"cls"``, the first.
    """

    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    pooling: str = "mean"

    name = "sentence-similarity"
    unit = "pairs"
    harm = "how far the cosine moved"
    defaults = ("spearman", "pearson")
    fits = defaults

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in _POOLINGS:
            raise EvaluationError(unknown("pooling", self.pooling, _POOLINGS))

    def part(self, model: Any) -> Any:
        """The encoder of a model, without its head."""
        return getattr(model, "base_model", model)

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of two sentences each, whose notes are the similarity that people gave."""
        columns = self._columns(rows)
        score = rows.column(self.label_column, ("score", "label", "similarity_score"), "label_column")
        sides = [encode((rows.texts(name),), facts, self.max_length, f"{name} of row") for name in columns]
        found = []
        for index, (first, second, value) in enumerate(zip(*sides, rows[score], strict=True)):
            try:
                target = float(value)
            except (TypeError, ValueError) as error:
                raise EvaluationError(
                    f"row {index} of {score} is {value!r}, no number: name another label_column"
                ) from error
            found.append(Feature(index, (first, second), target))
        return found

    def _columns(self, rows: Rows) -> tuple[str, str]:
        return (
            rows.column(self.text_column, ("sentence1", "text1", "premise"), "text_column"),
            rows.column(self.pair_column, ("sentence2", "text2", "hypothesis"), "pair_column"),
        )

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Both models' cosines of each pair."""
        mask = batch.tensors["attention_mask"]
        both = [self._cosines(outputs, mask) for outputs in (reference, quantized)]
        require_finite(
            [bool(cosines.isfinite().all()) for cosines in both], f"pair {batch.features[0].example} and its batch"
        )
        found = []
        for feature, first, second in zip(batch.features, both[0].tolist(), both[1].tolist(), strict=True):
            found.append(Result(feature.example, feature.notes, (first, second), harm=abs(second - first)))
        return found

    def _cosines(self, outputs: Any, mask: Tensor) -> Tensor:
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None:
            raise EvaluationError("the model gives no last_hidden_state: load an encoder")
        hidden = hidden.float().cpu()
        embeddings = hidden[:, 0] if self.pooling == "cls" else mean_pooled(hidden, mask)
        return functional.cosine_similarity(embeddings[0::2].double(), embeddings[1::2].double())

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """Both sentences, their similarity, and both models' cosines."""
        sentences = " / ".join(rows.cell(name, result.example) for name in self._columns(rows))
        return Description(sentences, f"{result.target:.4g}", *(f"{cosine:.4f}" for cosine in result.answers))


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean hidden state over each sequence's real tokens, ``[sequences, width]`` of ``[sequences, tokens, width]``."""
    weights = mask[..., None].to(hidden.dtype)
    return torch.sum(hidden * weights, dim=1) / weights.sum(dim=1)
