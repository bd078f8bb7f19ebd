"""Perplexity of one language model; `tasks.causal_lm` compares two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from hf_quant.data.bos import adds_bos
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import device_of, evaluating
from hf_quant.evaluation.windows import windows

SEPARATOR = "\n\n"
"""Separator of texts that are joined and read as one."""


def perplexity(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    sequence_length: int = 512,
    stride: int | None = None,
    progress: bool = False,
    bos: bool | None = None,
) -> float:
    """Perplexity per token of `texts`, joined by blank lines and read in windows of `sequence_length` tokens.

    ``exp(-(1/N) * sum_t log p(token_t | earlier tokens of its window))``, see `windows`; `N` counts the scored tokens.
    Each window begins with the tokenizer's ``bos`` if `bos` says so; no other special tokens are added.
    Log-probabilities are taken in float32 from the model's logits and summed in double precision.

    Args:
        model: A causal language model called as ``model(input_ids=..., use_cache=False).logits``; batch size is 1.
        tokenizer: The model's tokenizer.
        texts: Texts with at least two tokens in all.
        sequence_length: Window length in tokens, at least 2.
        stride: Tokens from one window's start to the next, at most `sequence_length`; None means no overlap.
        progress: Show a progress bar on stderr.
        bos: Whether windows begin with ``bos``, which is then part of their length; None: if the tokenizer puts it
            before texts.

    Raises:
        EvaluationError: Windows would skip tokens, or there are fewer than two.
    """
    # verbose=False: the whole text is longer than the model's context on purpose.
    encoded = tokenizer(SEPARATOR.join(texts), add_special_tokens=False, verbose=False)
    tokens = torch.tensor(encoded["input_ids"], dtype=torch.int64, device=device_of(model))
    begin = tokens.new_tensor([tokenizer.bos_token_id] if (adds_bos(tokenizer) if bos is None else bos) else [])
    found = list(windows(len(tokens), sequence_length - len(begin), stride, begun=len(begin) > 0))
    if not found:
        raise EvaluationError(f"perplexity needs at least two tokens, got {len(tokens)}")
    loss = 0.0
    with evaluating(model):
        for window in tqdm(found, disable=not progress):
            read = torch.cat([begin, tokens[window.start : window.end]])
            logits = model(input_ids=read[None], use_cache=False).logits[0]
            logits = logits[len(begin) + window.scored - window.start - 1 : -1].float()
            loss += functional.cross_entropy(logits, tokens[window.scored : window.end], reduction="sum").item()
    return math.exp(loss / sum(window.end - window.scored for window in found))
