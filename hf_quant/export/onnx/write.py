"""A folder with a model's graph, as ONNX Runtime, OpenVINO and Transformers.js read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_quant.errors import ConfigError
from hf_quant.export.onnx.lowering import Choose, lower, lowering_of
from hf_quant.export.onnx.trace import trace
from hf_quant.export.skeleton import float32_config
from hf_quant.modules.swap import quantized_modules

if TYPE_CHECKING:
    import onnx_ir

FILE = "model.onnx"
_LARGEST_FILE = 1_800_000_000
"""Bytes of tensors up to which they lie in the graph's file; such a file may not have 2 GiB."""
_LEAST = 1024
"""Bytes of a tensor that stays in the graph's file in any case."""


def write(model: Any, directory: Path, tokenizer: Any = None, *, external_data: bool | None = None) -> None:
    """Write ``model.onnx`` and ``config.json``; beside them ``model.onnx.data`` for tensors, where there are many.

    Args:
        model: Quantized Transformers model, in memory and in eval mode; not changed.
        directory: An empty folder.
        tokenizer: Not used: who calls this saves it.
        external_data: Whether tensors lie in a file of their own, which can be mapped. None: above 1.8 GB.

    Raises:
        ExportError: The model cannot be traced, or holds a format that ONNX has no operator for.
        ConfigError: Without a second file the graph would be too large.
    """
    write_graph(model, directory, external_data)


def write_graph(
    model: Any, directory: Path, external_data: bool | None = None, choose: Choose = lowering_of
) -> onnx_ir.Model:
    """`write`, with modules computed as `choose` says; the graph that was written."""
    for name, module in quantized_modules(model):
        choose(name, module)  # refuses before the minutes that tracing takes
    program = trace(model)
    lower(program, model, choose)
    save(program, directory, external_data)
    float32_config(model).save_pretrained(directory)
    return program


def save(program: onnx_ir.Model, directory: Path, external_data: bool | None) -> None:
    """Write a graph as ``model.onnx``; see `write`."""
    import onnx_ir

    size = sum(each.const_value.nbytes for each in program.graph.initializers.values() if each.const_value is not None)
    if external_data is False and size > _LARGEST_FILE:
        raise ConfigError(f"the tensors have {size:,} bytes, more than one file takes: leave external_data out")
    is_external = external_data if external_data is not None else size > _LARGEST_FILE
    location = f"{FILE}.data" if is_external else None
    onnx_ir.save(program, directory / FILE, external_data=location, size_threshold_bytes=_LEAST)
