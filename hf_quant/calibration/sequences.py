"""Rows to the sequences and batches that a model runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from hf_quant.calibration.rows import Row


def packed(rows: Iterable[Row], length: int, count: int, separator: int | None) -> tuple[list[Row], int]:
    """The tokens of all rows in one stream, cut into sequences; what is left over is dropped.

    Args:
        rows: Rows of tokens, read until there are enough.
        length: Tokens in a sequence.
        count: Most sequences to make.
        separator: Token to put after a row that does not end with it; None: none.

    Returns:
        The sequences, and how many tokens were read.
    """
    parts, total = [], 0
    for row in rows:
        ids = row["input_ids"][row["attention_mask"] != 0]
        if separator is not None and int(ids[-1]) != separator:
            ids = torch.cat([ids, torch.tensor([separator])])
        parts.append(ids)
        total += len(ids)
        if total >= length * count:
            break
    stream = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    cut = [ids for ids in stream.split(length)[:count] if len(ids) == length]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in cut], total


def truncated(rows: Iterable[Row], length: int, count: int) -> list[Row]:
    """The first `count` rows, the first `length` tokens of each."""
    return [{name: field[:length] for name, field in row.items()} for row in islice(rows, count)]


def padded(sequences: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """A batch ``[sequences, longest]``, padded on the right; padding is not attended to, and of token type 0."""
    types = any("token_type_ids" in sequence for sequence in sequences)
    fill = {"input_ids": pad, "attention_mask": 0, **({"token_type_ids": 0} if types else {})}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [sequence.get(name, torch.zeros_like(sequence["input_ids"])) for sequence in sequences],
            batch_first=True,
            padding_value=value,
        )
        for name, value in fill.items()
    }
