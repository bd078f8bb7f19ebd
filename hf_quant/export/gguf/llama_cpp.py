"""Runs a GGUF file in llama.cpp's shared libraries; a program of its own, since what they refuse ends the process.

Called as ``llama_cpp.py LIBRARIES FILE REQUEST RESULT``. REQUEST is JSON: ``ids``, rows of token ids of one length,
``steps``, tokens to generate after the first row, ``texts`` and ``threads``. RESULT is JSON: ``logits``, the name of a
file of float32 ``[rows, tokens, vocabulary]`` beside it, ``greedy``, the ids generated, and ``tokens``, the ids of each
text.

The library's structs of parameters change from version to version. They are passed as blocks that are larger than any
of them, as its own functions fill them; only their first fields are set here.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

_MOST_TOKENS = 2048


class _Parameters(ctypes.Structure):
    _fields_ = (("words", c_uint32 * 256),)


class _Batch(ctypes.Structure):
    _fields_ = (("tokens", c_int32), *((name, c_void_p) for name in ("ids", "b", "c", "d", "e", "wanted")))


class LlamaCpp:
    """A file opened in llama.cpp.

    Args:
        libraries: Folder of the shared libraries.
        file: The GGUF file.
        threads: Threads to compute with.
        context: Most tokens of a text.
    """

    def __init__(self, libraries: Path, file: Path, threads: int, context: int):
        self.library = _library(libraries)
        model = self.library.llama_model_load_from_file(os.fsencode(file), self.library.llama_model_default_params())
        if not model:
            sys.exit(f"llama.cpp could not open {file.name}")
        parameters = self.library.llama_context_default_params()
        # Tokens of a text, and tokens computed with in one call.
        parameters.words[0] = parameters.words[1] = parameters.words[2] = context
        self.context = self.library.llama_init_from_model(model, parameters)
        if not self.context:
            sys.exit(f"llama.cpp has no context of {context} tokens for {file.name}")
        self.library.llama_set_n_threads(self.context, threads, threads)
        self.vocabulary = self.library.llama_model_get_vocab(model)
        self.size = self.library.llama_vocab_n_tokens(self.vocabulary)

    def forget(self) -> None:
        """Let the next tokens be the first ones."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Of each of some tokens that follow, float32 ``[tokens, vocabulary]``."""
        tokens, wanted = np.asarray(ids, np.int32), np.ones(len(ids), np.int8)
        batch = self.library.llama_batch_get_one(tokens.ctypes.data, len(tokens))
        batch.wanted = wanted.ctypes.data
        if self.library.llama_decode(self.context, batch):
            sys.exit("llama.cpp could not compute")
        rows = [self.library.llama_get_logits_ith(self.context, index) for index in range(len(tokens))]
        return np.stack([np.array(np.ctypeslib.as_array(row, (self.size,))) for row in rows])

    def greedy(self, ids: Sequence[int], steps: int) -> list[int]:
        """The likeliest tokens after others, one at a time."""
        self.forget()
        found: list[int] = []
        for _ in range(steps):
            found.append(int(self.logits(found[-1:] or ids)[-1].argmax()))
        return found

    def tokens(self, text: str) -> list[int]:
        """A text as ids, special tokens among them."""
        data = text.encode()
        found = (c_int32 * (len(data) + 16))()
        count = self.library.llama_tokenize(self.vocabulary, data, len(data), found, len(found), True, True)
        return list(found[:count])


def main(libraries: str, file: str, request: str, result: str) -> None:
    """Run what a request asks for; see the file."""
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    longest = max(len(row) for row in asked["ids"]) + asked["steps"]
    model = LlamaCpp(Path(libraries), Path(file), asked["threads"], min(_MOST_TOKENS, max(64, longest)))
    found = []
    for row in asked["ids"]:
        model.forget()
        found.append(model.logits(row))
    logits = Path(result).with_suffix(".npy")
    np.save(logits, np.stack(found))
    greedy = model.greedy(asked["ids"][0], asked["steps"])
    tokens = [model.tokens(text) for text in asked["texts"]]
    made = {"logits": logits.name, "greedy": greedy, "tokens": tokens}
    Path(result).write_text(json.dumps(made), encoding="utf-8")


def _library(folder: Path) -> Any:
    """libllama, declared, with the backend that suits this CPU best."""
    loaded: Any = None
    for stem in ("libggml-base", "libggml", "libllama"):
        file = next((path for end in ("so*", "dylib") for path in sorted(folder.glob(f"{stem}.*{end}"))), None)
        file = file or next((path for end in ("so", "dylib") for path in folder.glob(f"{stem}.{end}")), None)
        if file is None:
            sys.exit(f"{folder} holds no {stem}: name the folder of llama.cpp's shared libraries")
        loaded = ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
        if stem == "libggml":
            loaded.ggml_backend_load_all_from_path.argtypes = (c_char_p,)
            loaded.ggml_backend_load_all_from_path(os.fsencode(folder))
    loaded.llama_backend_init()
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "llama_model_default_params": (_Parameters, ()),
        "llama_context_default_params": (_Parameters, ()),
        "llama_model_load_from_file": (c_void_p, (c_char_p, _Parameters)),
        "llama_init_from_model": (c_void_p, (c_void_p, _Parameters)),
        "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
        "llama_get_memory": (c_void_p, (c_void_p,)),
        "llama_memory_clear": (None, (c_void_p, c_bool)),
        "llama_model_get_vocab": (c_void_p, (c_void_p,)),
        "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
        "llama_batch_get_one": (_Batch, (c_void_p, c_int32)),
        "llama_decode": (c_int32, (c_void_p, _Batch)),
        "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
        "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


if __name__ == "__main__":
    main(*sys.argv[1:])
