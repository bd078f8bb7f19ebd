"""Static inputs: ``QuantizeLinear``, and a product of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_quant.export.onnx.blocks import to_bytes
from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir


def static_product(site: Site) -> onnx_ir.Value:
    """float32 ``[..., in]`` to ``[..., out]``, with codes from 0 to 255 on both sides.

    Not decoded and multiplied as floats: of those OpenVINO would round inputs once more, as its property says.
    """
    module, build, weight = site.module, site.build, site.weight
    assert module.input_scale is not None
    real, scale = site.rotated_input, site.tensor("input_scale", module.input_scale.reshape(()))
    shift = 128
    if module.input_zero_point is None:
        # Symmetric grids leave the lowest code out, which the operator would use.
        real = build.node("Max", [real, site.tensor("input_lowest", -127 * module.input_scale.reshape(()))])
    else:
        shift += int(module.input_zero_point)
    of_input = site.tensor("input_zero_point", torch.tensor(shift, dtype=torch.uint8))
    zeros = torch.zeros(1, dtype=torch.int8) if weight.zero_point is None else weight.zero_point[:, 0]
    of_weight = site.tensor("zero_point", to_bytes(zeros, 8).squeeze(0) if len(zeros) == 1 else to_bytes(zeros, 8))
    codes = build.node("QuantizeLinear", [real, scale, of_input])
    sums = build.node("MatMulInteger", [codes, site.columns(), of_input, of_weight])
    scales = build.node("Mul", [scale, site.tensor("scale", weight.scale[:, 0])])
    return site.with_bias(build.node("Mul", [build.cast(sums, "FLOAT"), scales]))
