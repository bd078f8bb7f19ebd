"""A written graph in ONNX Runtime: tokens in, outputs out, with a cache where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def session(source: str | bytes, optimization: str = "ORT_ENABLE_BASIC", folder: Path | None = None) -> Any:
    """An inference session on the CPU.

    Args:
        source: Path of a file, or what it holds.
        optimization: Name of a ``GraphOptimizationLevel``. Above the basic one, sums are done in another order, which
            may round an input to another code.
        folder: Where the tensors are that a `source` in memory says are in another file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimization)
    options.log_severity_level = 3
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class TextGraph:
    """A graph of a text model, run on one batch after another.

    Args:
        directory: Holds ``model.onnx``.
        optimization: As `session` takes it.
    """

    def __init__(self, directory: Path, optimization: str = "ORT_ENABLE_BASIC"):
        self.session = session(str(directory / "model.onnx"), optimization)

    @property
    def has_cache(self) -> bool:
        """Whether keys and values are among the inputs."""
        return any(each.name.startswith("past_key_values") for each in self.session.get_inputs())

    def feed(self, given: Arrays, past: Arrays | None = None) -> Arrays:
        """All inputs, where tokens are given: masks of ones, positions that follow each other, an empty cache.

        Args:
            given: Inputs by name, ``input_ids`` among them, int64 ``[batch, tokens]``.
            past: ``present`` outputs of the call before.
        """
        return feed({each.name: each.shape for each in self.session.get_inputs()}, given, past)

    def run(self, given: Arrays, past: Arrays | None = None) -> Arrays:
        """Outputs by name; see `feed`."""
        names = [each.name for each in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, self.feed(given, past)), strict=True))

    def greedy(self, ids: np.ndarray[Any, Any], tokens: int) -> np.ndarray[Any, Any]:
        """`ids` and as many likeliest tokens after them, int64 ``[batch, ...]``, one at a time with the cache."""
        found, past, given = ids, None, ids
        for _ in range(tokens):
            outputs = self.run({"input_ids": given}, past)
            past = {name: value for name, value in outputs.items() if name.startswith("present")}
            given = outputs["logits"][:, -1].argmax(-1)[:, None].astype(np.int64)
            found = np.concatenate([found, given], 1)
        return found


def feed(shapes: Mapping[str, Sequence[Any]], given: Arrays, past: Arrays | None) -> Arrays:
    """Values of all inputs of a graph; see `TextGraph.feed`."""
    batch, tokens = given["input_ids"].shape
    before = next(iter(past.values())).shape[2] if past else 0
    made: Arrays = {}
    for name, shape in shapes.items():
        if name in given:
            made[name] = given[name]
        elif name == "attention_mask":
            made[name] = np.ones((batch, before + tokens), np.int64)
        elif name == "position_ids":
            made[name] = np.tile(np.arange(before, before + tokens), (batch, 1))
        elif name == "token_type_ids":
            made[name] = np.zeros((batch, tokens), np.int64)
        elif past:
            made[name] = past[name.replace("past_key_values", "present")]
        else:
            made[name] = np.zeros((batch, shape[1], 0, shape[3]), np.float32)
    return made
