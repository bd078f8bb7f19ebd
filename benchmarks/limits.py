"""What this machine can do at most, measured in the run whose results are held against it."""

from __future__ import annotations

import ctypes
from functools import cache, partial

import torch

from benchmarks.timing import Work, best, cycle
from hf_quant.kernels.native.library import ISAS, load

_PARTS, _PART_BYTES = 8, 32 << 20
"""Memory that is read, a part at a time: altogether more than caches hold."""
_DOT_ROUNDS = 50_000
_MATMUL_SIZE = 1024


class NoLibrary(RuntimeError):
    """The native kernels cannot be measured."""


def native_library() -> ctypes.CDLL:
    """The native library.

    Raises:
        NoLibrary: With what to do.
    """
    library = load()
    if library is None:
        raise NoLibrary("no native library: install hf-quant where there is a C++ compiler, and unset HF_QUANT_ISA")
    return library


def use_isa(name: str) -> None:
    """Let the native kernels of this process use the instruction set from now on."""
    native_library().hf_quant_use_isa(ISAS[name])


@cache
def reading() -> tuple[Work, int]:
    """A read of memory by all threads, and the bytes that one call reads."""
    library, threads = native_library(), torch.get_num_threads()

    def read(part: torch.Tensor) -> int:
        return library.hf_quant_read(part.data_ptr(), _PART_BYTES, threads)

    parts = torch.ones(_PARTS, _PART_BYTES, dtype=torch.uint8)
    return cycle([partial(read, part) for part in parts]), _PART_BYTES


def multiplying() -> tuple[Work, int]:
    """Multiplications of 8-bit integers in registers on all threads, and the operations of one call.

    It runs on the instruction set in use; a multiplication and an addition are two operations.
    """
    library, threads = native_library(), torch.get_num_threads()
    operations = library.hf_quant_dots(_DOT_ROUNDS, threads)
    return lambda: library.hf_quant_dots(_DOT_ROUNDS, threads), operations


def read_rate() -> float:
    """Bytes per second from memory at best."""
    work, read = reading()
    return read / best(work, 7, 0.05)


def dots_rate() -> float:
    """8-bit operations per second at best, on the instruction set in use."""
    work, operations = multiplying()
    return operations / best(work, 7, 0.05)


def matmul_rate() -> float:
    """float32 operations per second of torch's matrix product at best."""
    matrix = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE)
    return 2 * _MATMUL_SIZE**3 / best(lambda: matrix @ matrix, 7, 0.05)
