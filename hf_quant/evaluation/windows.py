"""Windows of a long text, so that each of its tokens is scored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hf_quant.errors import EvaluationError


@dataclass(frozen=True)
class Window:
    """A stretch of a text's tokens that is read at once, and the part of it that is scored.

    Args:
        start: Index of the first token that is read.
        scored: Index of the first token that is scored; later than `start` where a token needs context.
        end: Index one past the last token.
    """

    start: int
    scored: int
    end: int


def windows(tokens: int, length: int, stride: int | None = None, begun: bool = False) -> Iterator[Window]:
    """Divide a text into windows of `length` tokens, one every `stride`; the first window to reach a token scores it.

    The first token of a window that does not overlap its predecessor has no context and is not scored, unless windows
    are begun with a token of their own.

    Args:
        tokens: Number of tokens of the text.
        length: Tokens of a window, at least 2, or 1 if windows are begun.
        stride: Tokens from one window's start to the next, 1 to `length`; None for no overlap.
        begun: Whether each window begins with an extra token, such as ``bos``, which gives its first token a context.

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
