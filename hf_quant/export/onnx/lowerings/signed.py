"""Symmetric codes with a sign, decoded by ``DequantizeLinear``: what TensorRT takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir


def signed_product(site: Site) -> onnx_ir.Value:
    """float32 ``[..., in]`` to ``[..., out]``; inputs are floats or have a symmetric static grid."""
    build, module = site.build, site.module
    real = site.rotated_input
    if module.input_scale is not None:
        scale = site.tensor("input_scale", module.input_scale.reshape(()))
        zero_point = build.tensor("signed_zero_point", torch.zeros((), dtype=torch.int8))
        # The grid leaves the lowest code out, which the operator would use.
        real = build.node("Max", [real, site.tensor("input_lowest", -127 * module.input_scale.reshape(()))])
        real = build.node("QuantizeLinear", [real, scale, zero_point])
        real = build.node("DequantizeLinear", [real, scale, zero_point])
    matrix = build.node("Transpose", [_matrix(site)], perm=[1, 0])
    return site.with_bias(build.node("MatMul", [real, matrix]))


def signed_rows(site: Site) -> onnx_ir.Value:
    """Ids ``[...]`` to float32 ``[..., width]``: rows of a decoded table, which is stored in codes."""
    rows = site.build.node("Gather", [_matrix(site), site.input], axis=0)
    return site.build.rotated(rows, site.rank + 1, site.width, site.module.spec.scheme.weight.rotation)


def _matrix(site: Site) -> onnx_ir.Value:
    """The decoded weight, ``[rows, width]``; one for all who hold it."""

    def decoded() -> onnx_ir.Value:
        codes = site.shared_tensor("codes", site.weight.codes)
        scale = site.shared_tensor("scale", site.weight.scale[:, 0])
        zeros = site.shared_tensor("zero_point", torch.zeros(site.rows, dtype=torch.int8))
        return site.build.node("DequantizeLinear", [codes, scale, zeros], axis=0)

    return site.build.once(("decoded", site.owner), decoded)
