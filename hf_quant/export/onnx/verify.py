"""A written graph against the model that it was made of, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hf_quant.export.comparing import relative_error, sample
from hf_quant.export.onnx.floor import allowed_error, has_float_inputs
from hf_quant.export.onnx.inside import look_inside
from hf_quant.export.onnx.lowering import PLACES, names_in
from hf_quant.export.onnx.read_back import codes_that_differ
from hf_quant.export.onnx.runtime import Arrays, feed, session
from hf_quant.export.onnx.write import FILE
from hf_quant.export.target import Comparison


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """Codes bit for bit, all that happens inside (`inside.look_inside`), and the outputs of the whole model.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    import onnx
    import onnxruntime

    differing = codes_that_differ(model, directory / FILE)
    program = onnx.load(directory / FILE, load_external_data=False)
    places = json.loads(next(each.value for each in program.metadata_props if each.key == PLACES))
    outputs = [each.name for each in program.graph.output]
    wanted = [*names_in(places, {each.name for each in program.graph.input} | set(outputs)), *outputs]
    program.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    running = session(program.SerializeToString(), "ORT_ENABLE_ALL", directory)
    shapes = {each.name: each.shape for each in running.get_inputs()}

    def run(given: Arrays, past: Arrays | None) -> Arrays:
        fed = feed(shapes, given, past)
        return {**fed, **dict(zip(wanted, running.run(wanted, fed), strict=True))}

    inputs, expected = sample(model)
    has_cache = any(name.startswith("past_key_values") for name in shapes)
    found = look_inside(model, places, run, outputs[0], has_cache, inputs)
    whole = run({name: tensor.numpy() for name, tensor in inputs.items()}, None)[outputs[0]]
    figures = {
        "modules with other codes": float(len(differing)),
        **found.figures,
        "outputs": relative_error(torch.from_numpy(whole), expected),
        "allowed": allowed_error(model, inputs, expected),
    }
    is_right = not differing and found.is_right and is_whole(model, figures)
    note = f"first of them: {(differing or found.beyond)[0]}" if differing or found.beyond else ""
    return Comparison(f"onnxruntime {onnxruntime.__version__}", figures, is_right, note)


def is_whole(model: Any, figures: dict[str, float]) -> bool:
    """Whether outputs are what they are to be: where inputs are quantized, chance has a part in how far codes move."""
    return figures["outputs"] <= figures["allowed"] or not has_float_inputs(model)
