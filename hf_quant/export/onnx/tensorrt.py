"""A graph for TensorRT: signed codes, static inputs, zero points of 0, standard operators only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hf_quant.errors import ExportError
from hf_quant.export.onnx.lowering import Lowering
from hf_quant.export.onnx.lowerings.signed import signed_product, signed_rows
from hf_quant.export.onnx.verify import verify as verify_graph
from hf_quant.export.onnx.write import FILE, write_graph
from hf_quant.export.target import Comparison
from hf_quant.modules.base import QuantizedModule

_STANDARD = ""


def lowering_of(name: str, module: QuantizedModule) -> Lowering:
    """How TensorRT computes a module.

    Raises:
        ExportError: It does not; the message names a scheme that it takes.
    """
    weight, given = module.spec.scheme.weight, module.spec.scheme.input
    is_plain = weight.facts.is_even and weight.bits <= 8 and weight.symmetric and weight.granularity != "group"
    if not is_plain:
        raise ExportError(
            f"{name} is {module.spec.scheme}, and the graph for TensorRT holds symmetric weights of up to 8 bits per "
            "channel: quantize it with TensorScheme(bits=8), or keep it float"
        )
    if isinstance(module, nn.Embedding):
        return signed_rows
    if given is not None and (given.dynamic or not given.symmetric or given.bits != 8):
        raise ExportError(
            f"{name} is {module.spec.scheme}, and TensorRT takes static symmetric inputs of 8 bits: quantize it with "
            'the input TensorScheme(bits=8, granularity="tensor"), or with none'
        )
    return signed_product


def write(model: Any, directory: Path, tokenizer: Any = None, *, external_data: bool | None = None) -> None:
    """Write ``model.onnx`` and ``config.json``; arguments are those of `write.write`.

    Raises:
        ExportError: The model cannot be traced, or TensorRT does not take a module's scheme.
    """
    write_graph(model, directory, external_data, lowering_of)


def verify(model: Any, directory: Path) -> Comparison:
    """All that is compared of any graph, in ONNX Runtime, and that there is nothing in it but standard operators.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    import onnx

    found = verify_graph(model, directory)
    program = onnx.load(directory / FILE, load_external_data=False)
    onnx.checker.check_model(program)
    foreign = sorted({node.op_type for node in program.graph.node if node.domain != _STANDARD})
    figures = {**found.figures, "operators that are not standard": float(len(foreign))}
    note = "; ".join(filter(None, [found.note, f"not standard: {', '.join(foreign)}" if foreign else ""]))
    return Comparison(f"{found.runtime}, no engine was built", figures, found.is_right and not foreign, note)
