"""Work that outlives the process: what was done so far, guarded by a fingerprint of everything it depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_quant.errors import ConfigError, SaveError

_MANIFEST = "progress.json"
_PREFIX = "step-"
_CARRIED = "carried-"


class Progress:
    """Steps of a long piece of work in a folder, each written whole or not at all.

    Args:
        folder: Folder of the steps; made if missing.
        fingerprint: What the work depends on, by name: model, data, recipe, version.
        restart: Whether to remove earlier progress in the folder first.

    Raises:
        ConfigError: The folder holds work with another fingerprint (the message says what differs), or files that are
            not of such work.
        SaveError: The folder cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, str], restart: bool = False):
        self.folder = Path(folder)
        self.fingerprint = dict(fingerprint)
        try:
            if restart:
                self.clear()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.done = self._open()
        except OSError as error:
            raise SaveError(f"{folder} cannot be used to keep progress in: {error}") from error

    def load(self, step: int) -> dict[str, torch.Tensor]:
        """Tensors that were saved for a step.

        Raises:
            ConfigError: The file is damaged.
        """
        return _read(self._file(step))

    def carried(self) -> dict[str, torch.Tensor]:
        """Tensors that the last finished step handed on to the next.

        Raises:
            ConfigError: The file is damaged.
        """
        return _read(self._carried_file(self.done - 1))

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], carried: Mapping[str, torch.Tensor]) -> None:
        """Keep the tensors of `step`, the next to be done, and what it hands on to the step after.

        Raises:
            SaveError: The disk is full, or the folder cannot be written; earlier steps are as they were.
        """
        try:
            self._put(self._file(step), tensors)
            self._put(self._carried_file(step), carried)
            self._write(step + 1)
            self._carried_file(step - 1).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise SaveError(f"progress could not be written to {self.folder}: {error}") from error
        self.done = step + 1

    def clear(self) -> None:
        """Remove all progress from the folder; see `forget`."""
        forget(self.folder)

    def _open(self) -> int:
        path = self.folder / _MANIFEST
        if not path.exists():
            others = [found.name for found in self.folder.iterdir() if not found.match(".*.partial")]
            if any(name.startswith(_PREFIX) for name in others):
                raise ConfigError(f"{self.folder} holds steps but no {_MANIFEST}: start over with restart=True")
            if others:
                raise ConfigError(f"{self.folder} holds {others[0]}, which is no progress: give a folder of its own")
            self._write(0)
            return 0
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            before, done = dict(found["fingerprint"]), int(found["done"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is damaged ({error}): start over with restart=True") from error
        different = sorted(
            name for name in {*before, *self.fingerprint} if before.get(name) != self.fingerprint.get(name)
        )
        if different:
            raise ConfigError(
                f"{self.folder} holds the progress of other work: {', '.join(different)} differ. Give another folder, "
                "or start over with restart=True (--restart)"
            )
        return done

    def _file(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:05}.safetensors"

    def _carried_file(self, step: int) -> Path:
        return self.folder / f"{_CARRIED}{step:05}.safetensors"

    def _put(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        partial = self.folder / f".{path.name}.partial"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        _sync(partial)
        os.replace(partial, path)

    def _write(self, done: int) -> None:
        partial = self.folder / f".{_PREFIX}manifest.partial"
        partial.write_text(json.dumps({"fingerprint": self.fingerprint, "done": done}, indent=1), encoding="utf-8")
        _sync(partial)
        os.replace(partial, self.folder / _MANIFEST)


def forget(folder: Path) -> None:
    """Remove everything that `Progress` kept in a folder; the folder too, if nothing else is in it."""
    for pattern in (f"{_PREFIX}*.safetensors", f"{_CARRIED}*.safetensors", ".*.partial"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is damaged ({error}): start over with restart=True") from error


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
