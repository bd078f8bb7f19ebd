"""Static inputs: ``QuantizeLinear`` and ``DequantizeLinear`` around a product, which runtimes make integers of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_quant.export.onnx.blocks import to_bytes
from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir


def static_product(site: Site) -> onnx_ir.Value:
    """float32 ``[..., in]`` to ``[..., out]``, with codes from 0 to 255 on both sides."""
    module, build, weight = site.module, site.build, site.weight
    assert module.input_scale is not None
    shift = 128 if module.input_zero_point is None else 128 + int(module.input_zero_point)
    grid = [
        site.tensor("input_scale", module.input_scale.reshape(())),
        site.tensor("input_zero_point", torch.tensor(shift, dtype=torch.uint8)),
    ]
    real = site.rotated_input
    if module.input_zero_point is None:
        # Symmetric grids leave the lowest code out, which the operator would use.
        lowest = site.tensor("input_lowest", -127 * module.input_scale.reshape(()))
        real = build.node("Max", [real, lowest])
    codes = build.node("QuantizeLinear", [real, *grid])
    zeros = torch.zeros(site.rows, dtype=torch.int8) if weight.zero_point is None else weight.zero_point[:, 0]
    of_weight = [site.tensor("scale", weight.scale[:, 0]), site.tensor("zero_point", to_bytes(zeros, 8))]
    matrix = build.node("DequantizeLinear", [site.columns(), *of_weight], axis=1)
    return site.with_bias(build.node("MatMul", [build.node("DequantizeLinear", [codes, *grid]), matrix]))
