"""The process of one model: it loads it and does as it is told.

Requests are lines of JSON on standard input, replies lines of JSON on what was standard output; whatever libraries
print goes to standard error. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import logging

from hf_quant.workflows.benchmarking.cases import Case
from hf_quant.workflows.benchmarking.loaded import LoadedModel, plain
from hf_quant.workflows.checkpoints import checked_device, load_model


class Worker:
    """The requests that a model's process answers, one for each method; arguments and results are JSON-ready."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        # Threads and libraries are up before memory is counted.
        torch.randn(256, 256) @ torch.randn(256, 256)
        self.loaded: LoadedModel | None = None

    def load(self, source: str, dtype: str, device: str) -> dict[str, str]:
        """Load the model; names of the device, the clock and the energy counter."""
        place = checked_device(device)
        model = load_model(source, dtype=dtype)
        self.loaded = LoadedModel(model if place.type == "cpu" else model.to(place))
        self.loaded.device_peak(anew=True)
        return self.loaded.instruments()

    def give(self, file: str) -> None:
        """Set the inputs for cases that have none of their own, from a safetensors file."""
        self._model.give(load_file(file))

    def turn(self, case: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Run one turn of a case, as `LoadedModel.turn`; names of tasks to samples."""
        return plain(self._model.turn(Case(**case), seconds))

    def facts(self) -> dict[str, Any]:
        """Facts about the model. Ask after a turn, as kernels may be chosen at first use."""
        return asdict(self._model.facts())

    def device_peak(self) -> int | None:
        """Most bytes that tensors took on a CUDA device so far; None on other devices."""
        return self._model.device_peak()

    @property
    def _model(self) -> LoadedModel:
        assert self.loaded is not None
        return self.loaded


def serve(worker: Worker, reply: Callable[..., None]) -> None:
    """Answer the requests on standard input until it ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(result=getattr(worker, request.pop("request"))(**request))
        except Exception as error:  # the parent raises it
            reply(error=type(error).__name__, message=str(error))


def main() -> None:
    """Serve requests, with as many threads as the first command-line argument says."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    worker = Worker(int(sys.argv[1]))
    reply(result=None)
    serve(worker, reply)


if __name__ == "__main__":
    main()
