"""From a model to an ONNX graph in which each quantized module is one node."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hf_quant.errors import ExportError, MissingDependency
from hf_quant.export.onnx.inputs import TracedInputs, traced_inputs
from hf_quant.export.onnx.marker import Marker, marker
from hf_quant.export.skeleton import skeleton

if TYPE_CHECKING:
    import onnx_ir


def trace(model: Any) -> onnx_ir.Model:
    """A graph of `model` with nodes ``hf_quant::Quantized`` in the place of its quantized modules.

    Inputs and outputs have the names that Optimum and Transformers.js read: ``past_key_values.0.key``,
    ``present.0.key``.

    Raises:
        ExportError: The model cannot be traced, or reads the weight of a quantized module itself.
        MissingDependency: Transformers is too old.
    """
    if find_spec("transformers.exporters") is None:
        raise MissingDependency('exporting takes the exporters of Transformers: pip install "transformers>=5.23"')
    from transformers.exporters import OnnxConfig, OnnxExporter

    inputs = traced_inputs(model)
    twin = skeleton(model, marker)
    config = OnnxConfig(dynamic_shapes=inputs.dynamic)
    try:
        with _quiet():
            program = OnnxExporter().export(twin, dict(inputs.values), config).program
    except Exception as error:  # of any kind: torch's, onnxscript's, or the model's own
        raise ExportError(
            f"{type(model).__name__} cannot be traced to ONNX: {type(error).__name__}: {str(error)[:400]}. "
            "Take another target, or report the model"
        ) from error
    _check_read(program, twin)
    _rename(program, inputs)
    _strip(program)
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which neither torch's steps nor notes of what onnxscript has no function for are printed."""
    names = ("torch.onnx._internal.exporter._registration", "torch.onnx", "onnxscript", "transformers.exporters")
    loggers = [logging.getLogger(name) for name in names]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _check_read(program: onnx_ir.Model, twin: Any) -> None:
    for name, module in twin.named_modules():
        if isinstance(module, Marker) and f"{name}.weight" in program.graph.initializers:
            raise ExportError(
                f'the model reads the weight of {name} itself: keep it float with modules_to_not_convert=["{name}"]'
            )


def _rename(program: onnx_ir.Model, inputs: TracedInputs) -> None:
    graph = program.graph
    for start, values, name in (("past_key_values", graph.inputs, "input"), ("present", graph.outputs, "output")):
        for layer in range(inputs.caches):
            for kind in ("key", "value"):
                found = f"{name}.past_key_values.layers.{layer}.{kind}s"
                value = next((each for each in values if each.name == found), None)
                if value is None:
                    raise ExportError(f"the graph has no {found}: take the version of Transformers that is required")
                value.name = f"{start}.{layer}.{kind}"
    for value in (*graph.inputs, *graph.outputs):
        _name_axes(value, inputs.caches > 0, "decoder_input_ids" in inputs.values)


def _name_axes(value: onnx_ir.Value, has_cache: bool, has_decoder: bool) -> None:
    """Words for the axes that vary, which torch calls s44."""
    import onnx_ir

    name, all_tokens = value.name or "", "past + tokens" if has_cache else "tokens"
    words = ["batch", all_tokens if name == "attention_mask" else "tokens"]
    if name in ("decoder_input_ids", "logits") and has_decoder:
        words[1] = "decoder tokens"
    if name.startswith(("past_key_values", "present")):
        words = ["batch", "heads", "past" if name.startswith("past") else all_tokens]
    axes = list(value.shape or ())
    named = [*words, *axes[len(words) :]]
    value.shape = onnx_ir.Shape(
        [axis if isinstance(axis, int) else word for axis, word in zip(axes, named, strict=False)]
    )


def _strip(program: onnx_ir.Model) -> None:
    """Without the notes on each node of where in Python it came from, which take a megabyte."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program)
