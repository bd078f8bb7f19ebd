"""Features to batches: like lengths together, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from hf_quant.evaluation.tasks.base import Batch, Feature

_FILL = {"attention_mask": 0, "token_type_ids": 0}


def batches(features: Sequence[Feature], size: int, pad: int | None) -> Iterator[tuple[list[int], Batch]]:
    """Divide features into batches, the longest first, so that a batch that does not fit into memory is met at once.

    Args:
        features: Features in any order; those of equal length keep it.
        size: Most sequences in a batch, at least 1; a feature with more is a batch of its own.
        pad: Id of the padding token; None: only features of one length go together.

    Yields:
        Indices of the features, and their batch.
    """
    order = sorted(range(len(features)), key=lambda index: -features[index].length)
    alike = groupby(order, key=lambda index: 0 if pad is not None else features[index].length)
    for _, group in alike:
        waiting: list[int] = []
        count = 0
        for index in group:
            width = len(features[index].sequences)
            if waiting and count + width > size:
                yield waiting, _batch([features[each] for each in waiting], pad)
                waiting, count = [], 0
            waiting.append(index)
            count += width
        yield waiting, _batch([features[each] for each in waiting], pad)


def _batch(features: list[Feature], pad: int | None) -> Batch:
    sequences = [sequence for feature in features for sequence in feature.sequences]
    names = list(dict.fromkeys(name for sequence in sequences for name in sequence))
    fill = {"input_ids": pad or 0, **_FILL}
    return Batch(tuple(features), {name: _padded([each[name] for each in sequences], fill[name]) for name in names})


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)
