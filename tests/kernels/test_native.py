"""The native library: loaded where it was built, and refused where it is not the one this package was built for."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_quant.kernels import native


@pytest.fixture
def library_at(monkeypatch):
    """Let `native.load` find a given file, with a cache of its own."""

    def place(path):
        monkeypatch.setattr(native, "_find", lambda: path)
        native.load.cache_clear()
        return native.load()

    yield place
    monkeypatch.undo()
    native.load.cache_clear()


def compiled(directory, source):
    """`source` in C as a shared library, by whatever compiler there is."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C compiler")
    (directory / "library.c").write_text(source)
    path = directory / "library.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, directory / "library.c"], check=True)
    return path


def test_the_library_loads_where_it_was_built():
    if native._find() is None:
        pytest.skip("installed without a compiler: there is no native library")
    library = native.load()
    assert isinstance(library, ctypes.CDLL) and library.hf_quant_abi_version() == native.ABI_VERSION


def test_the_library_is_loaded_once():
    assert native.load() is native.load()


def test_sources_and_loader_agree_on_the_interface():
    source = (Path(native.__file__).parent / "csrc" / "abi.cpp").read_text(encoding="utf-8")
    assert f"hf_quant_abi_version() {{ return {native.ABI_VERSION}; }}" in source


def test_nothing_is_loaded_where_nothing_was_built(library_at):
    assert library_at(None) is None


def test_a_library_of_the_same_interface_is_loaded(tmp_path, library_at):
    source = f"int hf_quant_abi_version(void) {{ return {native.ABI_VERSION}; }}"
    assert isinstance(library_at(compiled(tmp_path, source)), ctypes.CDLL)


@pytest.mark.parametrize("version", [native.ABI_VERSION + 1, native.ABI_VERSION - 1, -1])
def test_a_library_of_another_interface_is_refused(tmp_path, library_at, version):
    assert library_at(compiled(tmp_path, f"int hf_quant_abi_version(void) {{ return {version}; }}")) is None


def test_a_library_that_tells_no_version_is_refused(library_at):
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("*c10.*"))
    if not libraries:
        pytest.skip("torch brings no library of that name here")
    assert library_at(libraries[0]) is None


def test_a_file_that_is_no_library_is_refused(tmp_path, library_at):
    (tmp_path / "library.so").write_bytes(b"not a library")
    assert library_at(tmp_path / "library.so") is None
