"""A folder for OpenVINO: the graph as its own files, and the property that keeps its numbers what they are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_quant.export.comparing import relative_error, sample
from hf_quant.export.onnx.blocks import block_size, container
from hf_quant.export.onnx.floor import allowed_error
from hf_quant.export.onnx.inside import look_inside
from hf_quant.export.onnx.lowering import PLACES, Lowering, lowering_of, names_in
from hf_quant.export.onnx.lowerings.blocks import weight_after_rounding, weight_in_blocks
from hf_quant.export.onnx.runtime import Arrays, feed
from hf_quant.export.onnx.verify import is_whole
from hf_quant.export.onnx.write import FILE, write_graph
from hf_quant.export.skeleton import float32_config
from hf_quant.export.target import Comparison
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules

XML, PROPERTIES = "openvino_model.xml", "openvino_properties.json"
_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


def write(model: Any, directory: Path, tokenizer: Any = None) -> None:
    """Write ``openvino_model.xml`` and ``.bin``, ``openvino_properties.json`` to compile with, and ``config.json``.

    Left alone, OpenVINO rounds inputs of 4-bit weights to 8 bits in groups of its own, whatever the model does. Where
    modules want unlike groups, it is told not to, and nodes round inputs: the same numbers, more slowly.

    Args:
        model: Quantized Transformers model, in memory and in eval mode; not changed.
        directory: An empty folder.
        tokenizer: Not used: who calls this saves it.

    Raises:
        ExportError: As `write.write`.
    """
    import openvino

    size = group_of_inputs(model)
    properties = {_GROUP: str(size or 0), "INFERENCE_PRECISION_HINT": "f32"}
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        graph = write_graph(model, Path(folder), choose=lowering_of if size else _rounded_by_nodes)
        program = openvino.Core().read_model(Path(folder) / FILE)
        program.set_rt_info(graph.metadata_props[PLACES], [PLACES])
        for name, value in properties.items():
            program.set_rt_info(value, ["runtime_options", name])
        openvino.save_model(program, directory / XML, compress_to_fp16=False)
        del program  # it reads the file
    (directory / PROPERTIES).write_text(json.dumps(properties, indent=1) + "\n", encoding="utf-8")
    float32_config(model).save_pretrained(directory)


def group_of_inputs(model: Any) -> int | None:
    """Numbers in the groups that OpenVINO is to round inputs in: 0 for not at all; None where modules differ in that.

    It has one property for all weights in groups, which nodes that round inputs themselves can do without.
    """
    sizes = {_group_of(module) for _, module in quantized_modules(model) if module.multiplies}
    sizes.discard(None)
    return None if len(sizes) > 1 else next(iter(sizes), 0)


def _group_of(module: QuantizedModule) -> int | None:
    """The groups that OpenVINO has to round a module's inputs in; 0 for not at all, None where it does not matter."""
    weight, given = module.spec.scheme.weight, module.spec.scheme.input
    if given is not None and weight.granularity != "group":
        return None  # a product of integers
    if given is None or given.group_size is None or given.group_size != block_size(given.group_size):
        return 0
    # Zero points of an odd number of groups fill no bytes, and OpenVINO does not see what they belong to.
    is_seen = weight.symmetric or container(weight.bits) == 8 or module.spec.groups % 2 == 0
    return given.group_size if is_seen else 0


def _rounded_by_nodes(name: str, module: QuantizedModule) -> Lowering:
    chosen = lowering_of(name, module)
    return weight_after_rounding if chosen is weight_in_blocks else chosen


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """All that happens inside (`inside.look_inside`), and the outputs of the whole model.

    Where OpenVINO rounds inputs itself, it does not keep them: numbers inside are not to be had then.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    import openvino

    program = openvino.Core().read_model(directory / XML)
    places = json.loads(program.get_rt_info([PLACES]).value)
    outputs = [each.get_any_name() for each in program.outputs]
    wanted = names_in(places, {each.get_any_name() for each in program.inputs} | set(outputs))
    properties = json.loads((directory / PROPERTIES).read_text(encoding="utf-8"))
    wanted = wanted if properties[_GROUP] == "0" else []
    program.add_outputs(wanted)
    compiled = openvino.Core().compile_model(program, "CPU", properties)
    shapes: dict[str, Any] = {
        each.get_any_name(): [axis.get_length() if axis.is_static else None for axis in each.get_partial_shape()]
        for each in compiled.inputs
    }

    def run(given: Arrays, past: Arrays | None) -> Arrays:
        fed = feed(shapes, given, past)
        made = compiled(fed)
        return {**fed, **{name: np.array(made[compiled.output(name)]) for name in (*wanted, *outputs)}}

    inputs, expected = sample(model)
    has_cache = any(name.startswith("past_key_values") for name in shapes)
    whole = run({name: tensor.numpy() for name, tensor in inputs.items()}, None)[outputs[0]]
    figures = {
        "outputs": relative_error(torch.from_numpy(whole), expected),
        "allowed": allowed_error(model, inputs, expected),
    }
    note, is_right = "", figures["outputs"] <= figures["allowed"]
    if properties[_GROUP] == "0":
        found = look_inside(model, places, run, outputs[0], has_cache, inputs)
        is_right = found.is_right and is_whole(model, figures)
        figures = {**found.figures, **figures}
        note = f"first of them: {found.beyond[0]}" if found.beyond else ""
    return Comparison(f"openvino {openvino.__version__}", figures, is_right, note)
