"""The native library: loaded where it was built, and refused where it is not the one this package was built for."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_quant.errors import KernelError
from hf_quant.kernels.native import library


@pytest.fixture
def library_at(monkeypatch):
    """Let `library.load` find a given file, with a cache of its own."""

    def forget():
        library.load.cache_clear()
        library.absence.cache_clear()

    def place(path):
        monkeypatch.setattr(library, "_candidates", lambda: iter([] if path is None else [path]))
        forget()
        return library.load()

    yield place
    monkeypatch.undo()
    forget()


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
    if not any(library._candidates()):
        pytest.skip("installed without a compiler: there is no native library")
    loaded = library.load()
    assert isinstance(loaded, ctypes.CDLL) and loaded.hf_quant_abi_version() == library.ABI_VERSION
    assert library.absence() is None


def test_the_library_is_loaded_once():
    assert library.load() is library.load()


def test_sources_and_loader_agree_on_the_interface():
    source = (Path(library.__file__).parents[1] / "csrc" / "abi.h").read_text(encoding="utf-8")
    assert f"kAbiVersion = {library.ABI_VERSION};" in source


def test_where_nothing_was_built_torch_runs_it_and_a_warning_says_so_once(library_at, caplog):
    assert library_at(None) is None and library.load() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hf_quant runs on torch's own kernels" in caplog.text and "pip install" in caplog.text


@pytest.mark.parametrize("version", [library.ABI_VERSION + 1, library.ABI_VERSION - 1, -1])
def test_a_library_of_another_interface_is_refused(tmp_path, library_at, version):
    assert library_at(compiled(tmp_path, f"int hf_quant_abi_version(void) {{ return {version}; }}")) is None


def test_a_library_that_lacks_functions_is_refused(tmp_path, library_at):
    source = f"int hf_quant_abi_version(void) {{ return {library.ABI_VERSION}; }}"
    assert library_at(compiled(tmp_path, source)) is None


def test_a_library_that_tells_no_version_is_refused(library_at):
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("*c10.*"))
    if not libraries:
        pytest.skip("torch brings no library of that name here")
    assert library_at(libraries[0]) is None


def test_why_there_is_no_library_is_told(tmp_path, library_at, monkeypatch):
    monkeypatch.delenv(library.ISA_VARIABLE, raising=False)
    library_at(None)
    assert library.absence() == "which is built on installation where there is a C++ compiler"
    (tmp_path / "library.so").write_bytes(b"not a library")
    library_at(tmp_path / "library.so")
    assert "another version of this package or of torch" in library.absence()
    monkeypatch.setenv(library.ISA_VARIABLE, "none")
    library_at(None)
    assert library.absence() == "which HF_QUANT_ISA=none turns off"


def test_every_instruction_set_says_what_it_needs():
    assert list(library.NEEDS) == list(library.ISAS)


def test_a_file_that_is_no_library_is_refused(tmp_path, library_at):
    (tmp_path / "library.so").write_bytes(b"not a library")
    assert library_at(tmp_path / "library.so") is None


@pytest.mark.parametrize("isa", library.runnable_isas())
def test_the_environment_forces_a_lower_instruction_set(isa, monkeypatch):
    # That it is used then: tests/kernels/test_dispatch.py, which starts a Python for each.
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    assert library._choose_isa(library.load()) == isa


def test_the_environment_turns_the_native_kernels_off_and_a_warning_says_so_once(library_at, monkeypatch, caplog):
    path = next(library._candidates(), None)
    monkeypatch.setenv(library.ISA_VARIABLE, "none")
    assert library_at(path) is None and library.load() is None and library.isa() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hf_quant runs on torch's own kernels" in caplog.text and "HF_QUANT_ISA=none: unset it" in caplog.text


def test_an_instruction_set_that_does_not_run_here_is_a_typed_error(monkeypatch):
    loaded = library.load()
    if loaded is None:
        pytest.skip("installed without a compiler: there is no native library")
    missing = next(name for name in library.ISAS if name not in library.runnable_isas())
    monkeypatch.setenv(library.ISA_VARIABLE, missing)
    with pytest.raises(KernelError, match=r"does not run on this machine; these do: .*portable"):
        library._choose_isa(loaded)
    monkeypatch.setenv(library.ISA_VARIABLE, "avx3")
    with pytest.raises(KernelError, match="no instruction set 'avx3'; did you mean 'avx2'"):
        library._choose_isa(loaded)
