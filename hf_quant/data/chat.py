"""Conversations, lists of messages with a role and content, as the texts that a tokenizer's template makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError

from hf_quant.errors import DataError


def is_chat(value: Any) -> bool:
    """Whether a value is a conversation: a list of mappings that have a ``role`` and a ``content``."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in value)
    )


def chat_column(example: Mapping[str, Any]) -> str | None:
    """Name of the column of conversations of one row; None where there is none.

    Raises:
        DataError: There are several.
    """
    found = [name for name, value in example.items() if is_chat(value)]
    if len(found) > 1:
        raise DataError(f"the columns {', '.join(found)} all hold conversations: name one with text_column=...")
    return found[0] if found else None


def chat_text(messages: Any, tokenizer: Any) -> str:
    """The text of a conversation by the tokenizer's chat template, special tokens included.

    Raises:
        DataError: The tokenizer has no chat template, or it does not take the messages.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "conversations need a tokenizer with a chat_template, for tokenizer.apply_chat_template: set "
            "tokenizer.chat_template, or make texts of them first"
        )
    try:
        text: str = tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(f"the chat template does not take the messages {str(messages)[:80]!r}: {error}") from error
    return text
