"""The C++ checker compares every kernel of every instruction set with plain loops: sanitized, and emulated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EMULATOR = next(filter(None, map(shutil.which, ("qemu-aarch64-static", "qemu-aarch64"))), None)


def built(directory, *options, target="check_kernels"):
    """The checker, or another target, compiled in `directory`; skips where there is no compiler."""
    if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler, or no CMake")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", *generator, "-DHF_QUANT_CHECK=ON", *options, str(ROOT)]
    for command in (configure, ["cmake", "--build", ".", "--target", target, "--parallel", "2"]):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(directory.glob(f"*{target}*"))


def agreeing(command, rounds):
    """Instruction sets whose kernels agree with plain loops over so many rounds of random shapes."""
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run([*command, str(rounds)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return [line.split(":")[0] for line in done.stdout.splitlines() if line.endswith("rounds agree")]


@pytest.mark.slow  # compiling with sanitizers takes ten minutes on two old cores
def test_kernels_read_and_write_nothing_they_should_not(tmp_path):
    found = agreeing([built(tmp_path, "-DHF_QUANT_SANITIZE=ON")], 60)
    assert "portable" in found


@pytest.mark.timeout(600)
def test_kernels_for_neon_agree_under_emulation(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None or EMULATOR is None:
        pytest.skip("no cross-compiler (g++-aarch64-linux-gnu) or no emulator (qemu-user-static)")
    options = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    checker = built(tmp_path, *options, "-DCMAKE_EXE_LINKER_FLAGS=-static")
    assert set(agreeing([EMULATOR, "-cpu", "max", checker], 60)) == {"portable", "neon-dotprod", "neon-i8mm"}


TESTS = ("hostile_arguments", "fuzz", "ops", "spoiled_rows", "convolution", "grouped_convolution")
RUN = """
import sys
from pathlib import Path

import pytest

from hf_quant.kernels.native import library

library._candidates = lambda: iter([Path(sys.argv[1])])
assert library.load() is not None
# What is reported goes to stderr: nothing may capture it. Tests of memory in use count what sanitizers need.
sys.exit(pytest.main(["-q", "-s", "-W", "default", "-k", "not given_back", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_ops_read_and_write_nothing_they_should_not(tmp_path):
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("sanitizers are preloaded as GCC on Linux has them")
    path = built(tmp_path, "-DHF_QUANT_SANITIZE=ON", "-DCMAKE_CXX_COMPILER=g++", target="hf_quant_kernels")
    names = ("libasan.so", "libstdc++.so")
    runtimes = [subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in names]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = [f"tests/kernels/native/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-c", RUN, str(path), *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]
