"""Data to evaluate on: rows of a dataset, a file or the Hub, and a fingerprint of what was used of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_quant.data.files import open_data
from hf_quant.data.texts import Texts
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.report import DataDescription
from hf_quant.registry import unknown

_ROWS_AT_ONCE = 1000
_PREFERRED_SPLITS = ("test", "validation", "dev", "eval")


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset that are used, with where they are from.

    Args:
        dataset: Dataset with the rows that are used.
        name: Name of the file, the dataset or the kind of object that rows are from.
        split: Split of the dataset, such as ``"test"``; None where it has no splits.
    """

    dataset: datasets.Dataset
    name: str
    split: str | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.dataset.column_names)

    def __getitem__(self, column: str) -> list[Any]:
        # A slice is read at once, row by row takes many times as long.
        return list(self.dataset[column][:])

    def cell(self, column: str, row: int) -> Any:
        """The value of one column in one row, without reading the others."""
        return self.dataset[row][column]

    def column(self, wanted: str | None, usual: Sequence[str], what: str) -> str:
        """The name of a column: the one wanted, or the first of the usual names that exists.

        Args:
            wanted: Name that the user gave; None to look for the usual ones.
            usual: Usual names, in order of preference.
            what: Name of the option, for the error message.

        Raises:
            EvaluationError: There is no such column.
        """
        if wanted is not None:
            if wanted not in self.columns:
                raise EvaluationError(f"{self.name} has {unknown('column', wanted, self.columns)}")
            return wanted
        found = next((name for name in usual if name in self.columns), None)
        if found is None:
            raise EvaluationError(
                f"{self.name} has none of the columns {', '.join(usual)}: name the right one with {what}=..., one of "
                f"{', '.join(self.columns)}"
            )
        return found

    def texts(self, column: str) -> list[str]:
        """All values of a column, which have to be texts.

        Raises:
            EvaluationError: A value is missing, or no text.
        """
        found = self[column]
        for index, text in enumerate(found):
            if not isinstance(text, str):
                raise EvaluationError(
                    f"row {index} of column {column} of {self.name} is {text!r}, not a text: leave it out"
                )
        return found

    def describe(self) -> DataDescription:
        """Name, split, fingerprint and number of the rows."""
        digest = hashlib.sha256()
        names = sorted(self.columns)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            part = self.dataset[start : start + _ROWS_AT_ONCE]
            for values in zip(*(part[name] for name in names), strict=True):
                row = dict(zip(names, values, strict=True))
                digest.update(json.dumps(row, sort_keys=True, default=repr, ensure_ascii=False).encode() + b"\n")
        return DataDescription(self.name, self.split, digest.hexdigest(), len(self))


def open_rows(
    source: Any, split: str | None = None, limit: int | None = None, seed: int = 0, training: bool = False
) -> Rows:
    """Open data as rows: a dataset, a list, a file, or a dataset on the Hub.

    Args:
        source: Data: a `datasets.Dataset` or ``DatasetDict``; a list of texts or of mappings; or a file, folder or
            dataset's id, as `open_data` takes them.
        split: Split of a ``DatasetDict`` or of a dataset on the Hub; None: the first that exists of test, validation,
            dev and eval, or the only one.
        limit: Most rows to use, drawn at random, as data is often sorted by label, and kept in order; of an iterable
            dataset the first ones. None: all rows.
        seed: Seed by which rows are drawn.
        training: Whether ``train`` is the split that None stands for.

    Raises:
        EvaluationError: The data is of no such kind, there is no such split, or it is empty.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise EvaluationError(f"the number of examples must be a positive integer, not {limit!r}")
    dataset, name = _opened(source, limit is not None, seed)
    if isinstance(dataset, Mapping):
        split = _split(dataset, split, name, ("train",) if training else _PREFERRED_SPLITS)
        dataset = dataset[split]
    elif split is not None and isinstance(source, str | Path | list | tuple):
        raise EvaluationError(f"{name} has no splits: leave out split={split!r}")
    elif split is None and isinstance(source, datasets.Dataset) and source.split is not None:
        split = str(source.split)
    if isinstance(dataset, datasets.IterableDataset):
        dataset = datasets.Dataset.from_list(list(dataset if limit is None else dataset.take(limit)))
    if len(dataset) == 0:
        raise EvaluationError(f"{name}{f', split {split!r},' if split else ''} is empty: take another split or file")
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(np.sort(np.random.default_rng(seed).choice(len(dataset), limit, replace=False)))
    return Rows(dataset, name, split)


def _opened(source: Any, sampled: bool, seed: int) -> tuple[Any, str]:
    if isinstance(
        source, datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict
    ):
        name = getattr(getattr(source, "info", None), "dataset_name", None)
        return source, name or type(source).__name__
    if isinstance(source, list | tuple):
        rows = [{"text": row} if isinstance(row, str) else row for row in source]
        if not all(isinstance(row, Mapping) for row in rows):
            raise EvaluationError("a list of data holds texts, or mappings with the same columns")
        return datasets.Dataset.from_list([dict(row) for row in rows]), "a list"
    if not isinstance(source, str | Path):
        raise EvaluationError(
            f"cannot evaluate on a {type(source).__name__}: pass a datasets.Dataset, a list, a file, or a dataset's id"
        )
    found = open_data(source, sampled, seed)
    if isinstance(found, Texts):
        found = datasets.Dataset.from_dict({"text": found[:]})
    return found, Path(source).name if Path(source).exists() else str(source)


def _split(parts: Mapping[str, Any], wanted: str | None, name: str, preferred: Sequence[str]) -> str:
    known = list(parts)
    if wanted is not None:
        if wanted not in parts:
            raise EvaluationError(f"{name} has {unknown('split', wanted, known)}")
        return wanted
    found = next((split for split in preferred if split in parts), known[0] if len(known) == 1 else None)
    if found is None:
        raise EvaluationError(f"{name} has several splits: name one with split=..., of {', '.join(known)}")
    return found
