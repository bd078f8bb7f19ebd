"""Products of integers: inputs quantized for each call, weights with a scale for each channel; standard operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hf_quant.export.onnx.blocks import to_bytes
from hf_quant.export.onnx.inputs_quantized import quantized_input
from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir


def integer_product(site: Site) -> onnx_ir.Value:
    """float32 ``[..., in]`` to ``[..., out]``; sums of products of codes are exact.

    Weights are unsigned as inputs are: on processors without VNNI, sums of unsigned and signed products saturate.
    """
    scheme, build, weight = site.module.spec.scheme, site.build, site.weight
    assert scheme.input is not None
    found = quantized_input(site, scheme.input)
    codes = build.once((found.codes.name, "uint8"), lambda: build.cast(found.codes, "UINT8"))
    levels = weight.codes.to(torch.int32)
    if weight.zero_point is None:
        zero_point = build.tensor("zero_point_128", torch.tensor(128, dtype=torch.uint8))
    else:
        levels = levels - weight.zero_point.to(torch.int32)
        zero_point = site.tensor("zero_point", to_bytes(weight.zero_point[:, 0], 8))
    # OpenVINO does not take an input that is left out.
    none = build.tensor("zero_point_0", torch.tensor(0, dtype=torch.uint8))
    sums = build.node("MatMulInteger", [codes, site.columns(), none, zero_point])
    of_input = _whole(site, found.zero_point)
    correction = build.node("Mul", [of_input, site.tensor("sums", levels.sum(1, dtype=torch.int32))])
    exact = build.cast(build.node("Sub", [sums, correction]), "FLOAT")
    scaled = build.node("Mul", [build.node("Mul", [exact, found.scale]), site.tensor("scale", weight.scale[:, 0])])
    return site.with_bias(scaled)


def _whole(site: Site, zero_point: Any) -> onnx_ir.Value:
    build = site.build
    if isinstance(zero_point, float):
        return build.tensor(f"int_{int(zero_point)}", torch.tensor(int(zero_point), dtype=torch.int32))
    return build.once((zero_point.name, "int32"), lambda: build.cast(zero_point, "INT32"))
