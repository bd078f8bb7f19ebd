"""Derived folders appear whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from hf_quant.demo.cache import build_once, cache_directory


def write_one_file(folder):
    (folder / "weights").write_text("whole")


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    assert (tmp_path / "here").is_dir()


def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_QUANT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "hf_quant"


def test_a_folder_is_built_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        write_one_file(folder)

    assert build_once(tmp_path / "model", build) == build_once(tmp_path / "model", build) == tmp_path / "model"
    assert len(calls) == 1
    assert (tmp_path / "model" / "weights").read_text() == "whole"


def test_the_folder_does_not_exist_while_it_is_built(tmp_path):
    def build(folder):
        assert not (tmp_path / "model").exists()
        write_one_file(folder)

    build_once(tmp_path / "model", build)


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def build(folder):
        write_one_file(folder)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        build_once(tmp_path / "model", build)
    assert list(tmp_path.iterdir()) == []


def test_racing_builders_all_get_the_folder_and_leave_no_litter(tmp_path):
    together = Barrier(4)

    def build(folder):
        write_one_file(folder)
        together.wait(timeout=10)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: build_once(tmp_path / "model", build), range(4)))
    assert results == [tmp_path / "model"] * 4
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    assert (tmp_path / "model" / "weights").read_text() == "whole"
