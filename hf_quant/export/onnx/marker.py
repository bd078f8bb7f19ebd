"""Modules that leave one node in a graph, named after the quantized module that computes there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.joined import Counterpart
from hf_quant.modules.stored import StoredModule

DOMAIN = "hf_quant"
OPERATOR = "Quantized"
ATTRIBUTE = "module"


class Marker(Counterpart):
    """Leaves a node ``hf_quant::Quantized`` with the module's name, which `lowering` replaces.

    Args:
        name: Full name of the quantized module.
        shape: Shape of the float weight as the float class has it. What reads it gets NaN, and is found in the graph.
        width: Numbers in a row of the output.
        looks_up: Whether rows are looked up, so that ids ``[...]`` become ``[..., width]``.
    """

    def __init__(self, name: str, shape: tuple[int, ...], width: int, looks_up: bool):
        super().__init__()
        self.marked, self.width, self.looks_up = name, width, looks_up
        self.register_buffer("weight", torch.full((1, 1), torch.nan).expand(shape), persistent=False)
        self.register_parameter("bias", None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float32 ``[..., in]``, or ids ``[...]``, to float32 ``[..., width]``; zeros outside of an export."""
        shape = [*(input.shape if self.looks_up else input.shape[:-1]), self.width]
        attributes: dict[str, Any] = {ATTRIBUTE: self.marked}
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}", [input], attributes, dtype=torch.float32, shape=shape, version=1
        )


def marker(name: str, module: QuantizedModule | StoredModule) -> Marker:
    """What stands in a traced model for a module."""
    shape = tuple(module.weight.shape)  # of the float class: a `QuantizedTensor` shows it
    looks_up = isinstance(module, nn.Embedding)
    width = shape[1] if looks_up or not hasattr(module, "out_features") else shape[0]
    return Marker(name, shape, width, looks_up)
