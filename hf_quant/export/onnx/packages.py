"""The optional packages that writing and running ONNX takes."""

from __future__ import annotations

from importlib.util import find_spec

from hf_quant.errors import MissingDependency

_WRITING = ("onnx", "onnxscript", "onnx_ir")


def require(*more: str) -> None:
    """See that the packages are there that graphs are written with, and `more`, by the names they are imported under.

    Raises:
        MissingDependency: One is not installed, or Transformers is older than its exporters.
    """
    missing = [name for name in (*_WRITING, *more) if find_spec(name) is None]
    if missing:
        raise MissingDependency(f'{", ".join(missing)} not installed: pip install "hf-quant[onnx]"')
    if find_spec("transformers.exporters") is None:
        raise MissingDependency('exporting takes the exporters of Transformers: pip install "transformers>=5.23"')


def has_runtime() -> bool:
    """Whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None
