"""Texts that stay in their file until they are asked for."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, overload

from hf_quant.errors import DataError

_BOM = b"\xef\xbb\xbf"
_CHUNK = 2**16
"""Bytes read at once."""


class Texts(Sequence[str]):
    """Texts of a UTF-8 file: blocks that blank lines separate, or a JSON string a line. What is empty is left out.

    In memory are the places of texts alone. The file is read once, and then where texts are asked for.

    Args:
        path: The file; one that ends in ``.gz`` is unpacked to a temporary one.
        is_json: Whether each line is a JSON string.

    Raises:
        DataError: The file cannot be read, is no UTF-8, or a line of it is no JSON string.
    """

    def __init__(self, path: Path, is_json: bool = False):
        self.path, self.is_json = path, is_json
        try:
            self._file = _seekable(path)
            weakref.finalize(self, self._file.close)
            self._places = list(self._lines() if is_json else self._blocks())
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {str(path)[:200]!r} as a text file ({error}): give one in UTF-8") from error

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        start, end = self._places[index]
        self._file.seek(start)
        return self._decoded(self._file.read(end - start))

    def _decoded(self, raw: bytes) -> str:
        text = raw.decode().strip().replace("\r\n", "\n")
        return str(json.loads(text)) if self.is_json else text

    def _rows(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        at = len(_BOM) if self._file.read(len(_BOM)) == _BOM else 0
        self._file.seek(at)
        for line in self._file:
            line.decode()  # what is no UTF-8 is told now
            yield at, line
            at += len(line)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        start = end = 0
        for at, line in self._rows():
            if line.strip():
                start, end = (start if end else at), at + len(line)
            elif end:
                yield start, end
                end = 0
        if end:
            yield start, end

    def _lines(self) -> Iterator[tuple[int, int]]:
        for number, (at, line) in enumerate(self._rows(), start=1):
            if not line.strip():
                continue
            try:
                is_text = isinstance(json.loads(line), str)
            except ValueError as error:
                raise DataError(f"line {number} of {self.path} is no JSON: {error}") from error
            if not is_text:
                raise DataError(
                    f"line {number} of {self.path} is no text, as its first line is: give texts, or objects"
                )
            yield at, at + len(line)


def _seekable(path: Path) -> BinaryIO:
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    found = tempfile.TemporaryFile()  # noqa: SIM115
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, found)
    return found


def first_byte(path: Path) -> bytes:
    """The first byte of a file, or of what is packed in it, that is no space; empty where there is none.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            at_start = file.read(_CHUNK).removeprefix(_BOM)
            return next(
                (
                    found[:1]
                    for part in chain([at_start], iter(lambda: file.read(_CHUNK), b""))
                    if (found := part.strip())
                ),
                b"",
            )
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
