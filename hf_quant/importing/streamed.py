"""A file of safetensors whose tensors come one at a time, in any order: no more than one is in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from hf_quant.errors import CheckpointError
from hf_quant.importing.headers import DTYPES, Headers

_BYTES = {name: torch.empty(0, dtype=dtype).element_size() for dtype, name in DTYPES.items()}


class StreamedFile:
    """Tensors at the places that a header says.

    Args:
        file: Open for writing, at its start.
        headers: Shape and dtype of every tensor that will come.
    """

    def __init__(self, file: BinaryIO, headers: Headers):
        # Wide dtypes first, so that each tensor lies where its numbers are aligned.
        order = sorted(headers, key=lambda name: (-_BYTES[headers[name][1]], name))
        entries, end = {"__metadata__": {"format": "pt"}}, 0
        self.starts: dict[str, int] = {}
        for name in order:
            shape, dtype = headers[name]
            start, end = end, end + math.prod(shape) * _BYTES[dtype]
            entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}  # type: ignore[dict-item]
            self.starts[name] = start
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        self.file, self.headers, self.begin = file, headers, 8 + len(header)
        file.truncate(self.begin + end)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor; CheckpointError if the header says something else of it, or it was written."""
        if (tuple(tensor.shape), DTYPES.get(tensor.dtype)) != self.headers[name] or name not in self.starts:
            raise CheckpointError(f"{name} is no longer what it was when its header was read: convert again")
        self.file.seek(self.begin + self.starts.pop(name))
        self.file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def streamed_file(path: Path, headers: Headers) -> Iterator[StreamedFile]:
    """Context of a new file; CheckpointError if a tensor did not come until it ends."""
    with path.open("wb") as file:
        streamed = StreamedFile(file, headers)
        yield streamed
        if streamed.starts:
            raise CheckpointError(f"{next(iter(streamed.starts))} was not written: convert again")


def shards(groups: Mapping[str, Headers], limit: int) -> list[dict[str, Headers]]:
    """Groups of tensors by file, in their order, each file of at most `limit` bytes unless one group is more."""
    found: list[dict[str, Headers]] = [{}]
    size = 0
    for name, headers in groups.items():
        more = sum(math.prod(shape) * _BYTES[dtype] for shape, dtype in headers.values())
        if found[-1] and size + more > limit:
            found.append({})
            size = 0
        found[-1][name] = headers
        size += more
    return found
