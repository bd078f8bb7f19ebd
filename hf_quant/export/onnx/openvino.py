"""A folder for OpenVINO: the graph as its own files, and the property that keeps its numbers what they are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from hf_quant.errors import ExportError
from hf_quant.export.comparing import relative_error, sample
from hf_quant.export.onnx.floor import allowed_error
from hf_quant.export.onnx.lowering import PLACES
from hf_quant.export.onnx.runtime import feed
from hf_quant.export.onnx.verify import linear_errors, values_of
from hf_quant.export.onnx.write import FILE
from hf_quant.export.onnx.write import write as write_graph
from hf_quant.export.skeleton import float32_config
from hf_quant.export.target import Comparison
from hf_quant.modules.swap import quantized_modules

XML, PROPERTIES = "openvino_model.xml", "openvino_properties.json"
_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


def write(model: Any, directory: Path, tokenizer: Any = None) -> None:
    """Write ``openvino_model.xml`` and ``.bin``, ``openvino_properties.json`` to compile with, and ``config.json``.

    Left alone, OpenVINO rounds inputs of 4-bit weights to 8 bits in groups of its own, whatever the model does.

    Args:
        model: Quantized Transformers model, in memory and in eval mode; not changed.
        directory: An empty folder.
        tokenizer: Not used: who calls this saves it.

    Raises:
        ExportError: As `onnx.write`, or inputs of unlike groups, which one property cannot say.
    """
    import onnx
    import openvino

    properties = properties_of(model)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        write_graph(model, Path(folder))
        places = next(each.value for each in onnx.load(Path(folder) / FILE, load_external_data=False).metadata_props)
        program = openvino.Core().read_model(Path(folder) / FILE)
        program.set_rt_info(places, [PLACES])
        for name, value in properties.items():
            program.set_rt_info(value, ["runtime_options", name])
        openvino.save_model(program, directory / XML, compress_to_fp16=False)
        del program  # it reads the file
    (directory / PROPERTIES).write_text(json.dumps(properties, indent=1) + "\n", encoding="utf-8")
    float32_config(model).save_pretrained(directory)


def properties_of(model: Any) -> dict[str, str]:
    """What to compile a model with, so that inputs are rounded as in `model`: in its groups, or not at all.

    Raises:
        ExportError: Some modules want another group than others.
    """
    sizes: dict[int, str] = {}
    for name, module in quantized_modules(model):
        scheme = module.spec.scheme
        if module.multiplies and (scheme.input is None or scheme.input.granularity == "group"):
            sizes.setdefault(0 if scheme.input is None else scheme.input.group_size or 0, name)
    if len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        raise ExportError(
            f"OpenVINO rounds inputs in groups of one size: {first} has {one or 'float inputs'}, and {second} "
            f"{other or 'float inputs'}; quantize both alike, or export to onnx"
        )
    return {_GROUP: str(next(iter(sizes), 0)), "INFERENCE_PRECISION_HINT": "f32"}


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """Every linear on the very input that it gets in OpenVINO, and the outputs of the whole model.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    import openvino

    program = openvino.Core().read_model(directory / XML)
    places = json.loads(program.get_rt_info([PLACES]).value)
    main, inputs_of = program.outputs[0].get_any_name(), {each.get_any_name() for each in program.inputs}
    wanted = values_of(places, inputs_of)
    outputs = {name for each in program.outputs for name in each.get_names()}
    program.add_outputs([name for name in wanted if name not in outputs])
    properties = json.loads((directory / PROPERTIES).read_text(encoding="utf-8"))
    compiled = openvino.Core().compile_model(program, "CPU", properties)
    inputs, expected = sample(model)
    shapes: dict[str, Any] = {
        each.get_any_name(): [axis.get_length() if axis.is_static else None for axis in each.get_partial_shape()]
        for each in compiled.inputs
    }
    fed = feed(shapes, {name: tensor.numpy() for name, tensor in inputs.items()}, None)
    found = compiled(fed)
    values = {**fed, **{name: found[compiled.output(name)] for name in (*wanted, main)}}
    linears, beyond = linear_errors(model, places, values)
    figures = {
        "linears": max(linears.values(), default=0.0),
        "linears beyond rounding": float(len(beyond)),
        "outputs": relative_error(torch.from_numpy(values[main]), expected),
        "allowed": allowed_error(model, inputs, expected),
    }
    is_right = not beyond and figures["outputs"] <= figures["allowed"]
    note = f"first of them: {beyond[0]}" if beyond else ""
    return Comparison(f"openvino {openvino.__version__}", figures, is_right, note)
