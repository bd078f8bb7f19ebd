"""The token that begins a text, ``bos``, and who puts it there."""

from __future__ import annotations

from typing import Any


def adds_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts ``bos`` before every text, as models are then trained to read them."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and tokenizer("")["input_ids"][:1] == [bos]


def without_bos(text: str, tokenizer: Any) -> str:
    """The text without the ``bos`` that it begins with, where the tokenizer puts one before every text anyway."""
    bos = tokenizer.bos_token
    return text.removeprefix(bos) if bos and text.startswith(bos) and adds_bos(tokenizer) else text
