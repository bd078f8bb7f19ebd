"""Nodes that compute what a quantized module does, in the place of the one that it left in the graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_quant.errors import ExportError
from hf_quant.export.onnx.blocks import block_size
from hf_quant.export.onnx.graph import Builder
from hf_quant.export.onnx.lowerings.blocks import IN_BLOCKS, weight_in_blocks
from hf_quant.export.onnx.lowerings.embedding import rows_of_codes
from hf_quant.export.onnx.lowerings.integer import integer_product
from hf_quant.export.onnx.lowerings.static import static_product
from hf_quant.export.onnx.lowerings.stored import stored_floats
from hf_quant.export.onnx.marker import ATTRIBUTE, DOMAIN
from hf_quant.export.onnx.site import Site
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule

if TYPE_CHECKING:
    import onnx_ir

Lowering = Callable[[Site], Any]
Choose = Callable[[str, QuantizedModule], Lowering]

Places = dict[str, list[list[str]]]
"""Module name to the names of its input and its output in a graph, for each time that it is called."""

PLACES = "hf_quant.places"
"""Key of the file's metadata: `Places` as JSON."""


def lowering_of(name: str, module: QuantizedModule) -> Lowering:
    """How ONNX Runtime computes a module.

    Raises:
        ExportError: No operator takes its format; the message names one that is taken.
    """
    scheme = module.spec.scheme
    weight = scheme.weight
    if not weight.facts.is_even or weight.bits > 8:
        other = "w4a16 (4-bit integers in groups)" if weight.bits <= 8 else "int8 or w8a16"
        raise ExportError(
            f"{name} has the format {weight.format!r} of {weight.bits} bits, for which ONNX has no operator: quantize "
            f"it with {other}, or keep it float"
        )
    if isinstance(module, nn.Embedding):
        return rows_of_codes
    per_channel = weight.granularity != "group"
    if scheme.input is not None and per_channel and scheme.input.bits == 8:
        return integer_product if scheme.input.dynamic else static_product
    if weight.group_size is not None and block_size(weight.group_size) is None:
        raise ExportError(
            f"{name} has groups of {weight.group_size} inputs, and ONNX Runtime takes multiples of 16: quantize it in "
            "groups of 32, or keep it float"
        )
    return weight_in_blocks


def quantized_and_stored(model: nn.Module) -> dict[str, QuantizedModule | StoredModule]:
    """Modules whose weights are not those of the float model, by name."""
    return {name: each for name, each in model.named_modules() if isinstance(each, QuantizedModule | StoredModule)}


@torch.no_grad()
def lower(program: onnx_ir.Model, model: nn.Module, choose: Choose = lowering_of) -> None:
    """Replace each node that `Marker` left, in place; the file gets the codes and scales as they are in `model`.

    Args:
        program: From `trace`.
        model: The quantized model that it was made of.
        choose: How a runtime computes a module.
    """
    modules = quantized_and_stored(model)
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        owners.setdefault(_identity(module), []).append(name)
    build = Builder(program)
    places: Places = {}
    for node in [each for each in program.graph if each.domain == DOMAIN]:
        name = node.attributes[ATTRIBUTE].as_string()
        module, input = modules[name], node.inputs[0]
        assert input is not None
        holders = owners[_identity(module)]
        build.before, build.prefix = node, name
        if isinstance(module, StoredModule):
            made = stored_floats(build, name, holders[0], module, input)
        else:
            in_blocks = any(_chosen(modules[each], each, choose) in IN_BLOCKS for each in holders)
            site = Site(build, name, module, input, holders[0], len(holders) > 1, in_blocks)
            made = choose(name, module)(site)
        old = node.outputs[0]
        made.shape, made.type = old.shape, old.type
        if old.is_graph_output():
            made.name, old.name = old.name, None
        old.replace_all_uses_with(made, replace_graph_outputs=True)
        build.graph.remove(node, safe=True)
        places.setdefault(name, []).append([str(input.name), str(made.name)])
    program.opset_imports.pop(DOMAIN, None)
    program.metadata_props[PLACES] = json.dumps(places)


def names_in(places: Places, known: Collection[str]) -> list[str]:
    """Names of all that modules read and give in a graph, but for what is `known`, each once."""
    values = (value for calls in places.values() for call in calls for value in call)
    return list(dict.fromkeys(value for value in values if value not in known))


def _chosen(module: QuantizedModule | StoredModule, name: str, choose: Choose) -> Lowering | None:
    return choose(name, module) if isinstance(module, QuantizedModule) else None


def _identity(module: QuantizedModule | StoredModule) -> int:
    if isinstance(module, QuantizedModule):
        module.assemble()
        return id(next(iter(module.weights.values())))
    return id(module.weight)
