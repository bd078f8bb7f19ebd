"""Masked language modelling: tokens that are hidden and have to be guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import Rows
from hf_quant.evaluation.models import ModelFacts
from hf_quant.evaluation.outputs import vocabulary_logits
from hf_quant.evaluation.tasks.base import Batch, Description, Feature, Result, Task
from hf_quant.evaluation.tasks.encoding import encode
from hf_quant.evaluation.tasks.tokens import Places, token_results


@dataclass(frozen=True)
class MaskedLM(Task):
    """Masked language modelling: a part of each text's tokens, at least one, is hidden and has to be guessed.

    Args:
        text_column: Column of the texts; None for ``text``, ``sentence`` or ``content``.
        mask_fraction: Share of each text's tokens to hide, above 0 and at most 1.
        mask_seed: Seed by which the hidden tokens are chosen.
    """

    text_column: str | None = None
    mask_fraction: float = 0.15
    mask_seed: int = 0

    name = "masked-lm"
    unit = "tokens"
    harm = "rise of the mean negative log-likelihood of a hidden token, in nats"
    defaults = ("accuracy", "perplexity")
    fits = (*defaults, "log-loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_fraction <= 1:
            raise EvaluationError(f"mask_fraction must be above 0 and at most 1, not {self.mask_fraction}")

    def features(self, rows: Rows, facts: ModelFacts) -> list[Feature]:
        """Features of one text each, with hidden tokens; texts without a token that can be hidden are left out."""
        mask = facts.tokenizer.mask_token_id
        if mask is None:
            raise EvaluationError("the tokenizer has no mask token: this model is not for masked-lm; try causal-lm")
        tokens = encode((rows.texts(self._text(rows)),), facts, self.max_length, f"{rows.name}: text")
        special = set(facts.tokenizer.all_special_ids)
        found = []
        for index, each in enumerate(tokens):
            ids = np.array(each["input_ids"])
            free = np.flatnonzero(~np.isin(ids, list(special)))
            if len(free) == 0:
                continue
            # Of its own, so that a row's choice does not depend on the others.
            generator = np.random.default_rng((self.mask_seed, index))
            count = max(1, round(self.mask_fraction * len(free)))
            hidden = np.sort(generator.choice(free, count, replace=False))
            targets = ids[hidden]
            ids[hidden] = mask
            found.append(Feature(index, ({**each, "input_ids": ids.tolist()},), Places(hidden.tolist(), targets)))
        return found

    def _text(self, rows: Rows) -> str:
        return rows.column(self.text_column, ("text", "sentence", "content"), "text_column")

    def reduce(self, batch: Batch, reference: Any, quantized: Any, facts: ModelFacts) -> list[Result]:
        """Guesses, likelihoods and divergence at the hidden tokens of each text."""
        logits = [vocabulary_logits(outputs, facts.vocabulary) for outputs in (reference, quantized)]
        return token_results(batch, *logits)

    def describe(self, result: Result, rows: Rows, facts: ModelFacts) -> Description:
        """A text, its hidden tokens, and both models' guesses."""
        tokens = (
            " ".join(map(str, facts.tokenizer.convert_ids_to_tokens(each.tolist())))
            for each in (result.target, *result.answers)
        )
        return Description(rows.cell(self._text(rows), result.example), *tokens)
