"""Data by what a user types: a file, a folder, or a dataset's id on the Hub. The one reader of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hf_quant.data.texts import Texts, first_byte
from hf_quant.errors import DataError, MissingDependency
from hf_quant.registry import unknown

TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    # Only what is empty is missing: a text may be "null".
    ".csv": ("csv", {"keep_default_na": False, "na_values": [""]}),
    ".tsv": ("csv", {"sep": "\t", "keep_default_na": False, "na_values": [""]}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
}
"""Endings of tables to readers of `datasets`, with their options."""

ENDINGS = (*TABLES, ".txt")
"""Endings of files of data; after those of text there may be ``.gz``."""

FORMS = (
    "a .txt file (blank lines between texts), .jsonl, .json, .csv or .tsv, each also as .gz, .parquet, .arrow, a "
    "folder that datasets saved, or a dataset's id (name or name:subset)"
)
"""What `open_data` takes, in words, for the help of options."""

TEXT_COLUMNS = ("text", "sentence", "content")
"""What columns of texts are called, the most common name first."""

_PACKED = (".txt", ".csv", ".tsv", ".json", ".jsonl")
_LARGE = 2**30
"""Bytes from which a file that is sampled is not read whole, nor copied to the cache of `datasets`."""

_BUFFER = 10_000
"""Rows of a large file among which the next one is drawn."""

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def open_data(source: str | Path, sampled: bool = False, seed: int = 0) -> Any:
    """Open a file, a folder or a dataset of the Hub.

    Args:
        source: A ``.txt`` file (texts are separated by blank lines); a ``.jsonl``, ``.json``, ``.csv`` or ``.tsv``
            file; one of these packed as ``.gz``; a ``.parquet`` or ``.arrow`` file; a folder that `datasets` saved; or
            a dataset's id, ``name`` or ``name:subset``.
        sampled: Whether a few rows are to be drawn. Of a table above 1 GiB rows come one by one then, drawn from its
            beginning, so that it need not be read to its end.
        seed: Seed that these are drawn by.

    Returns:
        `Texts`; or, by `datasets`, a ``Dataset``, a ``DatasetDict``, or an ``IterableDataset`` of a large file.

    Raises:
        DataError: There is no such file or dataset, it is empty, or not what its name says.
        MissingDependency: Anything but texts, and the package `datasets` is not installed.
    """
    path = Path(source)
    ending, packed = _ending(path)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError:  # such as of a text, which is too long for a name
        exists, is_folder = False, False
    if is_folder:
        return _folder(path)
    if not exists and ending in ENDINGS:
        raise DataError(f"cannot read {path}: there is no file {source}")
    if not exists:
        return _hub(str(source))
    if ending not in ENDINGS or (packed and ending not in _PACKED):
        raise DataError(
            f"cannot read {path} as data: give one of {', '.join(ENDINGS)}, those of text also as .gz, a folder that "
            "datasets saved, or a dataset's id"
        )
    first = first_byte(path)
    if not first:
        raise DataError(f"{path} is empty: take another split or file")
    if ending == ".txt" or (ending == ".jsonl" and first == b'"'):
        return Texts(path, is_json=ending == ".jsonl")
    return _table(path, ending, sampled, seed)


def one_split(found: Any) -> Any:
    """The split ``train`` of data that has splits, or the first; other data as it is."""
    if not isinstance(found, dict):
        return found
    return found["train"] if "train" in found else next(iter(found.values()))


def open_texts(source: str | Path, column: str | None = None) -> list[str]:
    """All texts of a file, a folder or a dataset of the Hub that are not blank, in order.

    Args:
        source: As `open_data` takes it; of data with splits ``train`` is read, or the first.
        column: Column of the texts in a table; None: ``text``, ``sentence`` or ``content``, or the only one.

    Raises:
        DataError: There is no such data or column, a value is no text, or all are blank.
        MissingDependency: As for `open_data`.
    """
    found = one_split(open_data(source))
    if isinstance(found, Texts):
        texts: list[Any] = found[:]
    else:
        columns = list(found.column_names)
        if column is not None and column not in columns:
            raise DataError(f"{source} has {unknown('column', column, columns)}")
        usual = [name for name in TEXT_COLUMNS if name in columns] or (columns if len(columns) == 1 else [])
        if column is None and not usual:
            raise DataError(f"no telling which column of {source} is the text: name one of {', '.join(columns)}")
        texts = list(found[column or usual[0]][:])
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"row {index} of {source} is {str(text)[:80]!r}, not a text: leave it out")
    if not (texts := [text for text in texts if text.strip()]):
        raise DataError(f"{source} holds no text that is not blank")
    return texts


def _ending(path: Path) -> tuple[str, bool]:
    packed = path.suffix.lower() == ".gz"
    return (path.with_suffix("") if packed else path).suffix.lower(), packed


def _table(path: Path, ending: str, sampled: bool, seed: int) -> Any:
    datasets = _datasets(str(path))
    reader, options = TABLES[ending]
    try:
        if sampled and path.stat().st_size > _LARGE and ending != ".arrow":
            rows = datasets.load_dataset(reader, data_files=str(path), split="train", streaming=True, **options)
            return rows.shuffle(seed=seed, buffer_size=_BUFFER)
        if ending == ".arrow":
            return datasets.Dataset.from_file(str(path))
        return getattr(datasets.Dataset, f"from_{reader}")(str(path), **options)
    except (OSError, EOFError, ValueError, datasets.exceptions.DatasetsError) as error:
        # What `datasets` makes of a table that has a header only.
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} is empty: take another split or file") from error
        reason = error.__cause__ or error
        raise DataError(f"{path} is no {ending[1:]} file that can be read: {reason}") from error


def _folder(path: Path) -> Any:
    datasets = _datasets(str(path))
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"the folder {path} holds no dataset that can be loaded: {error}") from error


def _hub(source: str) -> Any:
    if not _ID.fullmatch(source):
        raise DataError(
            f"cannot read {source[:200]!r}: it is no file, and no dataset's id; to take texts themselves, pass a list"
        )
    datasets = _datasets(source)
    name, _, subset = source.partition(":")
    try:
        return datasets.load_dataset(name, subset or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source} is neither a file nor a dataset that can be loaded: {error}") from error


def _datasets(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            f'{source}, which is no .txt file, is read by the package datasets: pip install "hf-quant[evaluate]"'
        ) from error
    return datasets
