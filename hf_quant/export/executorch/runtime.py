"""ExecuTorch's operators and its Python runtime, without what they print while nothing is wrong."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

_LOGGERS = ("transformers.exporters", "executorch", "torchao")


@contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings of interfaces that may change, of versions, and of what XNNPACK leaves to others."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def require_operators() -> None:
    """Import what registers the operators ``quantized_decomposed``."""
    with quiet():
        import executorch.exir.passes._quant_patterns_and_replacements
        import executorch.kernels.quantized  # noqa: F401
        import torchao.quantization.pt2e  # noqa: F401


class Program:
    """A written program, loaded.

    Args:
        directory: Holds what `write` wrote.
    """

    def __init__(self, directory: Path):
        require_operators()
        with quiet():
            from transformers.exporters import ExportedModel

            self.exported = ExportedModel.from_pretrained(directory)
            self.exported.to()

    @property
    def takes(self) -> list[str]:
        """Names of its inputs."""
        return list(next(iter(self.exported.components.values())).metadata.kwargs)

    def __call__(self, **inputs: Tensor) -> Any:
        """What the model gives for inputs by name, of one sequence."""
        with quiet():
            return self.exported(**inputs)
