"""Rows, the tensors of one text or sequence, made of whatever a user calls a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hf_quant.calibration.samples import is_sample
from hf_quant.data.chat import chat_column, is_chat
from hf_quant.data.files import TEXT_COLUMNS, one_split, open_data
from hf_quant.errors import CalibrationError
from hf_quant.registry import unknown

Row = dict[str, torch.Tensor]
"""Tensors of one sequence, int64 ``[tokens]``: ``input_ids``, ``attention_mask``, ``token_type_ids`` if there are.

Of data that holds more than texts, a row is a `hf_quant.calibration.samples.Sample`.
"""

FIELDS = ("input_ids", "attention_mask", "token_type_ids")


def examples(dataset: Any, seed: int) -> Iterator[Any]:
    """The dataset's items, in an order that `seed` fixes if they can be looked up, otherwise in their own order.

    Raises:
        CalibrationError: There is no such file, or `dataset` is nothing that can be iterated.
    """
    if isinstance(dataset, str | Path):
        dataset = one_split(open_data(dataset, sampled=True, seed=seed))
    elif isinstance(dataset, Mapping):
        if "input_ids" not in dataset and not is_sample(dataset):
            raise CalibrationError(f"the dataset is a mapping of {list(dataset)}: pass one of them, such as a split")
        dataset = [dataset]
    if not isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__"):
        raise CalibrationError(
            f"cannot calibrate on a {type(dataset).__name__}: pass a datasets.Dataset, a DataLoader, a list of texts "
            "or of token ids, or the path of a file"
        )
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        return (dataset[int(index)] for index in order)
    return iter(dataset)


def is_batch(example: Any) -> bool:
    """Whether an item of a dataset is a batch: rows of token ids, padded to one length."""
    return isinstance(example, Mapping) and torch.is_tensor(example.get("input_ids")) and example["input_ids"].ndim == 2


def rows(example: Any, encode: Callable[[Any], Mapping[str, Any]] | None, text_column: str | None) -> list[Row]:
    """Rows of one example: a text, conversation or token ids, a mapping with one, or a batch. Empty ones are left out.

    Args:
        example: An item of the dataset.
        encode: Tokenizer for texts and conversations; None if there is none.
        text_column: Name of the column of texts in mappings; None to find out.

    Raises:
        CalibrationError: There is neither text nor ids, or no telling which; a text without a tokenizer; malformed ids.
    """
    if isinstance(example, Mapping):
        if text_column is None and "input_ids" in example:
            return _token_rows({name: example[name] for name in FIELDS if example.get(name) is not None})
        example = example[_text_column(example, text_column)]
    if example is None:
        return []
    texts = [example] if isinstance(example, str) or is_chat(example) else example
    if not (
        isinstance(texts, list | tuple) and texts and all(isinstance(text, str) or is_chat(text) for text in texts)
    ):
        return _token_rows({"input_ids": example})
    if encode is None:
        raise CalibrationError("texts need a tokenizer: pass tokenizer=AutoTokenizer.from_pretrained(...)")
    encoded = [encode(text) for text in texts if is_chat(text) or text.strip()]
    return [row for fields in encoded for row in _token_rows({name: fields[name] for name in FIELDS if name in fields})]


def _text_column(example: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in example:
            raise CalibrationError(unknown("text column", wanted, example))
        return wanted
    strings = [name for name, value in example.items() if isinstance(value, str)]
    missing = [name for name, value in example.items() if value is None]
    named = [name for name in TEXT_COLUMNS if name in strings] or [name for name in TEXT_COLUMNS if name in missing]
    chat = None if named else chat_column(example)
    if named or chat is not None or len(strings) == 1:
        return chat or (named or strings)[0]
    if missing and not strings:
        return missing[0]  # a row without its text
    if any(torch.is_tensor(value) for value in example.values()):
        raise CalibrationError(
            f"a batch has {list(example)} but no input_ids: let the loader's collate_fn name them so"
        )
    raise CalibrationError(
        f"no telling which column is the text: pass text_column=..., one of {list(example)}, or preprocess=... that "
        "returns a text"
    )


def _token_rows(fields: Mapping[str, Any]) -> list[Row]:
    """One row for each sequence, without the padding at its ends."""
    tensors = {name: _integers(name, value) for name, value in fields.items()}
    ids = tensors["input_ids"]
    for name, tensor in tensors.items():
        if tensor.shape != ids.shape:
            raise CalibrationError(
                f"{name} has shape {tuple(tensor.shape)}, input_ids {tuple(ids.shape)}: make them alike"
            )
    found = []
    for index in range(len(ids)):
        row = {"attention_mask": torch.ones_like(ids[index]), **{name: each[index] for name, each in tensors.items()}}
        kept = row["attention_mask"].nonzero().flatten()
        if len(kept):
            found.append({name: row[name][int(kept[0]) : int(kept[-1]) + 1] for name in FIELDS if name in row})
    return found


def _integers(name: str, value: Any) -> torch.Tensor:
    """A value as integers, int64 ``[rows, tokens]`` on the CPU."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"{name} must be integers of one length, not {str(value)[:80]}: {error}") from error
    if (tensor.numel() and (tensor.is_floating_point() or tensor.is_complex())) or tensor.ndim not in (1, 2):
        raise CalibrationError(
            f"{name} must be integers [tokens] or [batch, tokens], not {tensor.dtype} {list(tensor.shape)}; images and "
            "sounds are given as a processor makes them, dicts with pixel_values and the like"
        )
    return torch.atleast_2d(tensor.detach().to("cpu", torch.int64))
