"""What models that read images or sound are run on: tensors as a processor makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.tokenization_utils_base import BatchEncoding

from hf_quant.errors import CalibrationError

Sample = dict[str, torch.Tensor]
"""Tensors of one sample, each with a first dimension of 1; or of several that cannot be told apart."""

_BATCH_DIMENSIONS = {
    "pixel_values": 4,
    "pixel_values_videos": 5,
    "input_features": 3,
    "input_values": 2,
    "input_ids": 2,
}
"""Dimensions of a batch of what models commonly call so; of anything by other names alone, items are batches."""
_LABELS = ("label", "labels")
_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids")
_OF_TOKENIZERS = ("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "assistant_masks")
"""What tokenizers add that no model reads."""
_BESIDE_TOKENS = ("bbox", "xpath_tags_seq", "xpath_subs_seq", "decoder_input_ids")
"""Integers that models read beside tokens: places on a page, paths of tags, another sequence."""
_OF_BATCHES = re.compile("spatial_shapes|pixel_attention_mask|pixel_position_ids|feature_attention_mask|.*grid_thw")
"""What goes with patches or frames that come in a row, ``[batch, patches, numbers]`` or fewer dimensions."""


def is_sample(item: Any) -> bool:
    """Whether an item of a dataset holds more than texts and tokens, such as ``pixel_values`` or ``bbox``.

    Tokens in more than two dimensions, those of several codebooks, are no text either.
    """
    if not isinstance(item, Mapping):
        return False
    if getattr(item.get("input_ids"), "ndim", 0) > 2:
        return True
    others = {name: item[name] for name in item if name not in (*_LABELS, *_OF_TEXT, *_OF_TOKENIZERS)}
    if others.keys() & {*_BATCH_DIMENSIONS, *_BESIDE_TOKENS}:
        return True
    return any(isinstance(each, torch.Tensor) and each.is_floating_point() and each.ndim for each in others.values())


def samples(items: Iterable[Any], count: int) -> list[Sample]:
    """The first samples of a dataset.

    Args:
        items: Mappings of tensors, arrays or nested lists: single samples, or batches as a processor gives them. Labels
            and text are left out.
        count: Most samples to take.

    Raises:
        CalibrationError: An item has no numbers that are no tokens, or such as are not finite.
    """
    return list(islice((sample for item in items for sample in _samples(item)), count))


def stacked(samples: Sequence[Sample], size: int, dtype: torch.dtype | None) -> list[Sample]:
    """Batches of at most `size` samples, in their order; those in one batch have equal shapes.

    Args:
        samples: As `samples` gives them.
        size: Most samples in a batch.
        dtype: Dtype of the floats in batches; None: as they are.
    """
    batches: list[Sample] = []
    kind: Any = None
    for sample in samples:
        shapes = {name: tensor.shape for name, tensor in sample.items()}
        is_single = all(len(tensor) == 1 for tensor in sample.values())
        if is_single and shapes == kind and len(next(iter(batches[-1].values()))) < size:
            batches[-1] = {name: torch.cat([tensor, sample[name]]) for name, tensor in batches[-1].items()}
        else:
            batches.append(dict(sample))
        kind = shapes if is_single else None
    return [
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
        for batch in batches
    ]


def _samples(item: Any) -> Iterator[Sample]:
    if not is_sample(item) and not (isinstance(item, Mapping) and "input_ids" in item):  # a text without its image
        given = list(item) if isinstance(item, Mapping) else type(item).__name__
        raise CalibrationError(f"an item of the dataset has no numbers such as pixel_values: it is {given}")
    tensors = {name: _tensor(name, value) for name, value in item.items() if name not in (*_LABELS, *_OF_TOKENIZERS)}
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not found:
        raise CalibrationError(f"an item of the dataset has no numbers: {list(item)}")
    first = next((name for name in _BATCH_DIMENSIONS if name in found), next(iter(found)))
    is_batch = isinstance(item, BatchFeature | BatchEncoding) or any(map(_OF_BATCHES.fullmatch, found))
    if not is_batch and found[first].ndim < _BATCH_DIMENSIONS.get(first, 0):
        yield {name: tensor.unsqueeze(0) for name, tensor in found.items()}
    elif len({len(tensor) for tensor in found.values()}) > 1:
        yield found
    else:
        for index in range(len(found[first])):
            yield {name: tensor[index : index + 1] for name, tensor in found.items()}


def _tensor(name: str, value: Any) -> torch.Tensor | None:
    """A value as a tensor on the CPU; None for text and other things that are no numbers."""
    try:
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            value = torch.stack(value)  # which says the shapes that differ
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        if name in _BATCH_DIMENSIONS:
            raise CalibrationError(f"{name} must be numbers of one shape, not {str(value)[:80]}: {error}") from error
        return None
    if tensor.ndim == 0:
        return None  # a number of the sample, such as an index
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            raise CalibrationError(f"{name} holds NaN or infinite numbers: leave that sample out")
        tensor = tensor.float()
    return tensor
