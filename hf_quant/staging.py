"""Folders that are written whole or not at all: under another name first, and then moved."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Context of an empty folder on the file system of `target`, which is gone afterwards, also where it was moved.

    Raises:
        NotADirectoryError: There is a file where the folder is to be.
        OSError: Nothing can be written there.
    """
    if target.exists() and not target.is_dir():
        raise NotADirectoryError("it is a file; give a directory to save to")
    # Inside a directory that exists: its parent may be another file system (a mounted volume), or not ours to write.
    place = target if target.is_dir() else target.parent
    place.mkdir(parents=True, exist_ok=True)
    folder = place / f".{target.name}.{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path, stale: Collection[str], last: str) -> None:
    """Move what a staging folder holds into `target`, in place of what has these names; undone where it fails.

    Args:
        folder: From `staging`.
        target: Where it goes; made if there is none.
        stale: Names of files in `target` that go, too.
        last: Name of the file that is moved last: until then the folder is what it was, or plainly broken. All files
            get its mode.

    Raises:
        OSError: A directory is in the way of a file, or the files cannot be moved; all is as it was.
    """
    # Some libraries make files that are private to the user; others have the mode that the umask asks for.
    mode = stat.S_IMODE((folder / last).stat().st_mode)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    if not target.exists():
        folder.rename(target)
        return
    written = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == last, name))
    stale = [name for name in stale if name not in written]
    in_the_way = [name for name in written if (target / name).is_dir() and not (folder / name).is_dir()]
    if in_the_way:
        raise IsADirectoryError(f"{target / in_the_way[0]} is a directory where a file has to go; move it away")
    earlier = folder / ".earlier"
    earlier.mkdir()
    placed: list[Path] = []
    try:
        for name in [*stale, *written]:
            if os.path.lexists(target / name):
                (target / name).rename(earlier / name)
            if name not in stale:
                placed.append((folder / name).rename(target / name))
    except OSError:
        for path in placed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in list(earlier.iterdir()):
            path.rename(target / path.name)
        raise
