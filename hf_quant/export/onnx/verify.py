"""A written graph against the model that it was made of, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_quant.export.comparing import WEIGHT_ONLY, relative_error, sample
from hf_quant.export.onnx.exact import allowed_at_ties, exact_output
from hf_quant.export.onnx.floor import allowed_error
from hf_quant.export.onnx.lowering import PLACES
from hf_quant.export.onnx.read_back import codes_that_differ
from hf_quant.export.onnx.runtime import Arrays, TextGraph, feed, session
from hf_quant.export.onnx.write import FILE
from hf_quant.export.target import Comparison
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules

_LAST = 2
"""Tokens that are decoded with the cache of those before."""


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """Codes bit for bit, every linear on the very input that it gets in the graph, and the outputs of the whole model.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    import onnxruntime

    differing = codes_that_differ(model, directory / FILE)
    inputs, expected = sample(model)
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    linears, beyond = linears_in_runtime(model, directory, given)
    allowed = allowed_error(model, inputs, expected)
    figures = {
        "modules with other codes": float(len(differing)),
        "linears": max(linears.values(), default=0.0),
        "linears beyond rounding": float(len(beyond)),
        "outputs": outputs_error(TextGraph(directory), given, expected),
        "allowed": allowed,
    }
    is_right = not differing and not beyond and figures["outputs"] <= allowed
    note = f"first of them: {(differing or beyond)[0]}" if differing or beyond else ""
    return Comparison(f"onnxruntime {onnxruntime.__version__}", figures, is_right, note)


def outputs_error(graph: TextGraph, given: Arrays, expected: torch.Tensor) -> float:
    """Relative error of the main output; where there is a cache, that of the last tokens after a prompt counts too."""
    main = graph.session.get_outputs()[0].name
    found = relative_error(torch.from_numpy(graph.run(given)[main]), expected)
    ids = given["input_ids"]
    if not graph.has_cache or ids.shape[1] <= _LAST:
        return found
    prompt = graph.run({"input_ids": ids[:, :-_LAST]})
    past = {name: value for name, value in prompt.items() if name.startswith("present")}
    after = graph.run({"input_ids": ids[:, -_LAST:]}, past)[main]
    return max(found, relative_error(torch.from_numpy(after), expected[:, -_LAST:]))


def linears_in_runtime(model: Any, directory: Path, given: Arrays) -> tuple[dict[str, float], list[str]]:
    """`linear_errors` in ONNX Runtime, with the graph optimized as it is when it is used."""
    import onnx

    program = onnx.load(directory / FILE, load_external_data=False)
    places = json.loads(next(each.value for each in program.metadata_props if each.key == PLACES))
    outputs = {each.name for each in program.graph.output}
    wanted = values_of(places, {each.name for each in program.graph.input})
    program.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    running = session(program.SerializeToString(), "ORT_ENABLE_ALL", directory)
    fed = feed({each.name: each.shape for each in running.get_inputs()}, given, None)
    return linear_errors(model, places, {**fed, **dict(zip(wanted, running.run(wanted, fed), strict=True))})


def values_of(places: dict[str, list[str]], inputs: set[str]) -> list[str]:
    """Names of what modules read and give in a graph, but for the inputs of the graph, each once."""
    return list(dict.fromkeys(name for place in places.values() for name in place if name not in inputs))


def linear_errors(model: Any, places: dict[str, list[str]], values: Arrays) -> tuple[dict[str, float], list[str]]:
    """What each quantized module in a graph makes of its input there, against exact arithmetic on the same input.

    An input may lie so near to the border of two codes that rounding of the last bit decides; what those codes can make
    of the output is not counted as an error.

    Args:
        model: Quantized.
        places: Module name to the names of its input and output.
        values: Numbers by those names.

    Returns:
        Relative error by module, as far as no input lies at a border; and the modules whose error is larger than 1e-5
        and than borders allow.
    """
    errors, beyond = {}, []
    for name, module in quantized_modules(model):
        if name not in places:
            continue
        input, found = (torch.from_numpy(np.array(values[each])) for each in places[name])
        error, is_beyond = _error(module, input, found)
        errors[name] = error
        if is_beyond:
            beyond.append(name)
    return errors, beyond


def _error(module: QuantizedModule, input: torch.Tensor, found: torch.Tensor) -> tuple[float, bool]:
    """Largest relative error of a token without an input at a border, and whether any token's is beyond its bound."""
    expected = exact_output(module, input).flatten(0, -2)
    sizes = expected.norm(dim=-1).clamp_min(1e-30)
    errors = (found.flatten(0, -2) - expected).norm(dim=-1)
    allowed = torch.zeros_like(errors) if not module.multiplies else allowed_at_ties(module, input.flatten(0, -2))
    sure = (errors / sizes)[allowed == 0]
    return float(sure.max()) if len(sure) else 0.0, bool((errors > WEIGHT_ONLY * sizes + allowed).any())
