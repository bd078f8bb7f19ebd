"""Rows of a table of codes: gathered as bytes, and decoded by standard operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_quant.export.onnx.blocks import container
from hf_quant.export.onnx.site import Site

if TYPE_CHECKING:
    import onnx_ir


def rows_of_codes(site: Site) -> onnx_ir.Value:
    """Ids ``[...]`` to float32 ``[..., width]``."""
    build, weight, scheme = site.build, site.weight, site.module.spec.scheme.weight
    bits, rank = container(scheme.bits), site.rank
    packed = build.node("Gather", [site.table(bits), site.input], axis=0)
    if site.in_blocks:
        packed = build.reshaped(packed, rank, -1)
    codes = _unpacked(site, packed, bits)
    real = build.cast(codes, "FLOAT")
    groups = weight.scale.shape[1]
    if groups > 1:
        real = build.reshaped(real, rank, groups, site.width // groups)
    if weight.zero_point is None:
        real = build.node("Sub", [real, float(2 ** (bits - 1))])
    else:
        zero_points = (weight.zero_point.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
        real = build.node("Sub", [real, build.cast(_of_rows(site, "zero_point", zero_points), "FLOAT")])
    real = build.node("Mul", [real, _of_rows(site, "scale", weight.scale.contiguous())])
    if groups > 1:
        real = build.reshaped(real, rank, site.width)
    return build.rotated(real, rank + 1, site.width, scheme.rotation)


def _of_rows(site: Site, kind: str, values: torch.Tensor) -> onnx_ir.Value:
    """``[rows, groups]`` to what belongs to the ids: ``[..., groups, 1]``; ``[..., 1]`` where rows are groups."""
    found = site.build.node("Gather", [site.tensor(kind, values), site.input], axis=0)
    return found if values.shape[1] == 1 else site.build.reshaped(found, site.rank, values.shape[1], 1)


def _unpacked(site: Site, packed: onnx_ir.Value, bits: int) -> onnx_ir.Value:
    """Bytes ``[..., bytes]`` to uint8 codes ``[..., width]``."""
    if bits == 8:
        return _cut(site, packed, bits)
    build, axis = site.build, site.build.indices(-1)
    mask = build.tensor(f"mask_{bits}", torch.tensor(2**bits - 1, dtype=torch.uint8))
    parts = []
    for start in range(0, 8, bits):
        by = build.tensor(f"shift_{start}", torch.tensor(start, dtype=torch.uint8))
        shifted = build.node("BitShift", [packed, by], direction="RIGHT") if start else packed
        parts.append(build.node("Unsqueeze", [build.node("BitwiseAnd", [shifted, mask]), axis]))
    codes = build.reshaped(build.node("Concat", parts, axis=-1), site.rank, -1)
    return _cut(site, codes, bits)


def _cut(site: Site, codes: onnx_ir.Value, bits: int) -> onnx_ir.Value:
    """Codes without those that fill the last byte or block."""
    build, unit = site.build, site.block_size if site.in_blocks else 8 // bits
    if site.width % unit == 0:
        return codes
    return build.node("Slice", [codes, build.indices(0), build.indices(site.width), build.indices(-1)])
