import os
import stat
from pathlib import Path

import pytest

from hf_quant.staging import publish, staging


def fill(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)


def put(target, stale=(), **files):
    with staging(target) as folder:
        fill(folder, **files)
        publish(folder, target, stale, last="last")


def interrupted(target):
    with staging(target) as folder:
        fill(folder, half="written")
        raise KeyboardInterrupt


def test_what_is_staged_is_moved_whole_and_nothing_is_left_beside(tmp_path):
    with staging(tmp_path / "new" / "there") as folder:
        fill(folder, first="1", last="2")
        assert folder.parent == tmp_path / "new" and not (tmp_path / "new" / "there").exists()
        publish(folder, tmp_path / "new" / "there", (), last="last")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["there"]
    assert sorted(path.name for path in (tmp_path / "new" / "there").iterdir()) == ["first", "last"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_take_the_place_of_earlier_ones_and_stale_ones_go(tmp_path):
    fill(tmp_path, last="old", stale="old", other="kept")
    (tmp_path / "inner").mkdir()
    fill(tmp_path / "inner", old="old")
    with staging(tmp_path) as folder:
        (folder / "inner").mkdir()
        fill(folder / "inner", new="new")
        fill(folder, last="new")
        publish(folder, tmp_path, ["stale"], last="last")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inner", "last", "new", "other"]
    assert (tmp_path / "last").read_text() == "new"


def test_a_failure_while_moving_puts_back_what_was_there(tmp_path, monkeypatch):
    fill(tmp_path, first="old", last="old", stale="old")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    move = os.rename

    def failing(source, target, **options):
        if Path(source).name == "last" and Path(source).parent.parent == tmp_path and Path(target).parent == tmp_path:
            raise OSError("no space")
        return move(source, target, **options)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no space"):
        put(tmp_path, ["stale"], first="new", last="new")
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_directory_in_the_way_of_a_file_is_told_before_anything_moves(tmp_path):
    (tmp_path / "last").mkdir()
    fill(tmp_path, first="old")
    with pytest.raises(IsADirectoryError, match="move it away"):
        put(tmp_path, first="new", last="new")
    assert (tmp_path / "first").read_text() == "old"


def test_a_file_is_no_place_to_stage_in(tmp_path):
    fill(tmp_path, there="a file")
    with pytest.raises(NotADirectoryError):
        put(tmp_path / "there", last="new")


def test_private_files_get_the_mode_of_the_last(tmp_path):
    with staging(tmp_path / "there") as folder:
        fill(folder, private="1", last="2")
        (folder / "private").chmod(0o600)
        (folder / "last").chmod(0o644)
        publish(folder, tmp_path / "there", (), last="last")
    assert stat.S_IMODE((tmp_path / "there" / "private").stat().st_mode) == 0o644
