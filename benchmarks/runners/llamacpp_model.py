"""llama.cpp through its shared libraries, on weights that it quantizes itself.

Its structs of parameters change from version to version. They are passed as blocks that are larger than any of them, as
the library's own functions fill them; only their first fields are set here.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_bool, c_char_p, c_int32, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners import gguf_file
from benchmarks.runners.base import Generated, Skip
from benchmarks.runners.clock import timed_generation
from benchmarks.runners.derived import config_of, derive, looked_up_weights

FOLDER_VARIABLE = "HF_QUANT_BENCHMARK_LLAMA_CPP"
"""Environment variable with the folder of the shared libraries."""

_FILE_TYPES = {"q4_0": 2, "q8_0": 7}
_BITS = {"q4_0": 4.5, "q8_0": 8.5}
_MODEL = "model.gguf"
_CONTEXT = 1024


class _Parameters(ctypes.Structure):
    _fields_ = (("words", c_uint32 * 256),)


class _Batch(ctypes.Structure):
    _fields_ = (("tokens", c_int32), *((name, c_void_p) for name in "abcdef"))


def prepare(folder: Path, work: Path, scheme: str) -> Path:
    """The model as a file in `scheme`."""
    library = _library()

    def quantize(target: Path) -> None:
        source = derive(work / "gguf", lambda folder_: gguf_file.write(folder, folder_ / _MODEL)) / _MODEL
        parameters = library.llama_model_quantize_default_params()
        parameters.words[0], parameters.words[1] = os.cpu_count() or 1, _FILE_TYPES[scheme]
        files = os.fsencode(source), os.fsencode(target / _MODEL)
        if library.llama_model_quantize(*files, ctypes.byref(parameters)):
            raise RuntimeError(f"llama.cpp could not quantize {source}")

    return derive(work / f"gguf-{scheme}", quantize) / _MODEL


class LlamaCppModel:
    """A model with a cache for one text."""

    bits: float | None = None

    def __init__(self, file: Path, read: int):
        self.library, self.read = _library(), read
        model = self.library.llama_model_load_from_file(os.fsencode(file), self.library.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp could not load {file}")
        parameters = self.library.llama_context_default_params()
        parameters.words[0] = _CONTEXT
        self.context = self.library.llama_init_from_model(model, parameters)
        threads = int(os.environ["OMP_NUM_THREADS"])
        self.library.llama_set_n_threads(self.context, threads, threads)
        self.vocabulary = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(model))

    def encode(self, ids: np.ndarray) -> tuple[float, np.ndarray]:
        """Not measured."""
        raise NotImplementedError

    def generate(self, ids: np.ndarray, steps: int, budget: float) -> Generated:
        """As the contract says."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        return timed_generation(self.step, self.step, ids, steps, budget)

    def step(self, ids: np.ndarray, position: int) -> np.ndarray:
        """Tokens from `position` on."""
        tokens = np.ascontiguousarray(ids[0], np.int32)
        if self.library.llama_decode(self.context, self.library.llama_batch_get_one(tokens.ctypes.data, len(tokens))):
            raise RuntimeError("llama.cpp could not compute")
        logits = self.library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.vocabulary,))

    def read_bytes(self) -> int | None:
        """The size of the file without a table that rows are looked up in."""
        return self.read


def load(folder: Path, work: Path, scheme: str) -> LlamaCppModel:
    """The model in `scheme`."""
    file = prepare(folder, work, scheme)
    return LlamaCppModel(file, file.stat().st_size - int(looked_up_weights(config_of(folder)) * _BITS[scheme] / 8))


def _library() -> Any:
    """libllama, declared, with the backend that suits this CPU best.

    Raises:
        Skip: There is no library where the variable says.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise Skip("no shared libraries of llama.cpp: name their folder by --llama-cpp")
    folder = Path(named).expanduser()
    for part in ("libggml-base.so*", "libggml.*so*", "libllama.*so*"):
        file = next(folder.glob(part), None)
        if file is None:
            raise Skip(f"{folder} holds no {part}: --llama-cpp names the folder of llama.cpp's shared libraries")
        loaded = ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
        if part.startswith("libggml."):
            loaded.ggml_backend_load_all_from_path.argtypes = (c_char_p,)
            loaded.ggml_backend_load_all_from_path(os.fsencode(folder))
    loaded.llama_backend_init()
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "llama_model_default_params": (_Parameters, ()),
        "llama_context_default_params": (_Parameters, ()),
        "llama_model_quantize_default_params": (_Parameters, ()),
        "llama_model_quantize": (c_uint32, (c_char_p, c_char_p, ctypes.POINTER(_Parameters))),
        "llama_model_load_from_file": (c_void_p, (c_char_p, _Parameters)),
        "llama_init_from_model": (c_void_p, (c_void_p, _Parameters)),
        "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
        "llama_get_memory": (c_void_p, (c_void_p,)),
        "llama_memory_clear": (None, (c_void_p, c_bool)),
        "llama_model_get_vocab": (c_void_p, (c_void_p,)),
        "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
        "llama_batch_get_one": (_Batch, (c_void_p, c_int32)),
        "llama_decode": (c_int32, (c_void_p, _Batch)),
        "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (c_void_p, c_int32)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
