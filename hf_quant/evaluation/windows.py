"""Windows of a long text, so that each of its tokens is scored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hf_quant.errors import EvaluationError


@dataclass(frozen=True)
class Window:
    """A stretch of tokens.

    Args:
        start: First token that is read.
        scored: First token that is scored; later than `start`, for a token needs context.
        end: One past the last token.
    """

    start: int
    scored: int
    end: int


def windows(tokens: int, length: int, stride: int | None = None, begun: bool = False) -> Iterator[Window]:
    """Windows of `length` tokens, one every `stride`; each token is scored in the first window that reaches it.

    The first token of a window that does not overlap its predecessor has no context and is not scored, unless windows
    are begun with a token of their own.

    Args:
        tokens: How many there are.
        length: Of a window, at least 2, or 1 if they are begun.
        stride: From 1 to `length`; None for no overlap.
        begun: Whether there is a token before each window.

    Raises:
        EvaluationError: Windows would skip tokens.
    """
    stride = length if stride is None else stride
    least = 1 if begun else 2
    if length < least or not 1 <= stride <= length:
        raise EvaluationError(
            f"windows need a length of at least {least} and a stride from 1 to it, not {length} and {stride}"
        )
    reached = 0
    for start in range(0, tokens, stride):
        end = min(start + length, tokens)
        scored = max(start + (0 if begun else 1), reached)
        if scored < end:
            yield Window(start, scored, end)
        reached = end
        if reached == tokens:
            return
