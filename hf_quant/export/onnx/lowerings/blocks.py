"""Weights in blocks, multiplied with floats or with inputs in the same groups: ``MatMulNBits`` of ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_quant.export.onnx.blocks import block_size, container, per_block, to_bytes
from hf_quant.export.onnx.graph import RUNTIME
from hf_quant.export.onnx.inputs_quantized import fake_quantized
from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir

FLOAT_INPUTS, INPUTS_IN_BLOCKS = 0, 4
"""Values of ``accuracy_level``: the input as it is, or rounded to 8 bits in the blocks of the weight. Without one, a
runtime may choose."""


def rounds_alike(site: Site) -> bool:
    """Whether the runtime rounds inputs to the codes that the scheme means: symmetric, in the blocks of the weight."""
    scheme = site.module.spec.scheme
    if scheme.input is None or scheme.input.granularity != "group":
        return False
    return scheme.weight.group_size == block_size(scheme.weight.group_size or 0)


def weight_in_blocks(site: Site) -> onnx_ir.Value:
    """float32 ``[..., in]`` to ``[..., out]``; inputs that the runtime cannot round so are rounded by nodes before."""
    return _product(site, rounds_alike(site))


def weight_after_rounding(site: Site) -> onnx_ir.Value:
    """The same where the runtime is not to round inputs, since it could not do so for others."""
    return _product(site, False)


IN_BLOCKS = (weight_in_blocks, weight_after_rounding)


def _product(site: Site, alike: bool) -> onnx_ir.Value:
    scheme, build = site.module.spec.scheme, site.build
    bits, weight = container(scheme.weight.bits), site.weight
    size = site.block_size
    if alike and bits == 2:
        bits = 4  # of 2 bits the runtime rounds inputs for some sizes of blocks only
    real = site.rotated_input if scheme.input is None or alike else fake_quantized(site, scheme.input)
    blocks = -(-site.width // size)
    inputs = [real, site.blocks(bits), site.tensor("scale", per_block(weight.scale, blocks).flatten())]
    if weight.zero_point is not None:
        inputs.append(site.tensor("zero_point", to_bytes(per_block(weight.zero_point, blocks), bits).flatten()))
    product = build.node(
        "MatMulNBits",
        inputs,
        RUNTIME,
        K=site.width,
        N=site.rows,
        bits=bits,
        block_size=size,
        accuracy_level=INPUTS_IN_BLOCKS if alike else FLOAT_INPUTS,
    )
    return site.with_bias(product)
