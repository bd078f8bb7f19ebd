"""The values of quantized tensors, checked before a kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import affine_format
from hf_quant.formats.packing import padding_is_zero, unpack

if TYPE_CHECKING:
    from hf_quant.modules.base import QuantizedModule
    from hf_quant.modules.weight import Weight


def check_weight(tensors: Mapping[str, torch.Tensor], weight: Weight, name: str) -> None:
    """Raise CheckpointError if a tensor of a weight holds what no quantizer writes: see the messages.

    Args:
        tensors: By the names of the format.
        weight: Says of what scheme and shape they should be.
        name: Of the parameter, for messages.
    """
    scheme = weight.scheme
    format = affine_format(scheme)
    for key, (shape, dtype) in weight.facts.items():
        tensor = tensors[key]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name if key == 'codes' else f'{name}_{key}'} is {tensor.dtype} {list(tensor.shape)}, not {dtype} "
                f"{list(shape)}: download or save the checkpoint again"
            )
    codes, scale, zero_point = tensors["codes"], tensors["scale"], tensors.get("zero_point")
    signed = format.has_signed_scales
    if not bool((torch.isfinite(scale) & (scale != 0 if signed else scale > 0)).all()):
        kind = "not finite, or zero" if signed else "not finite and positive"
        raise CheckpointError(f"{name}_scale holds values that are {kind}: save it again")
    if zero_point is not None and not padding_is_zero(zero_point, scheme.bits, scale.numel()):
        raise CheckpointError(f"{name}_zero_point has bits set after its last one: save the checkpoint again")
    if not padding_is_zero(codes, scheme.bits, weight.width):
        raise CheckpointError(f"{name} has bits set after its last code: save the checkpoint again")
    if format.quant_min > -(2 ** (scheme.bits - 1)):
        found = unpack(codes, scheme.bits, weight.width)
        if found.numel() and int(found.min()) < format.quant_min:
            raise CheckpointError(
                f"{name} holds a code below {format.quant_min}, which symmetric {scheme.bits}-bit "
                "quantization never writes: save the checkpoint again"
            )


def check_grid(module: QuantizedModule, name: str) -> None:
    """Raise CheckpointError if the grid of a module's static inputs is none that calibration writes."""
    for key, (shape, dtype) in module.tensor_facts().items():
        tensor = getattr(module, key) if key.startswith("input") else None
        if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
            raise CheckpointError(
                f"{name}.{key} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}: "
                "download or save the checkpoint again"
            )
    scale, zero_point, scheme = module.input_scale, module.input_zero_point, module.spec.scheme.input
    if scheme is None or scale is None:
        return
    format = affine_format(scheme)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(f"{name}.input_scale is not finite and positive: calibrate and save it again")
    if zero_point is not None and not format.quant_min <= int(zero_point) <= format.quant_max:
        raise CheckpointError(f"{name}.input_zero_point leaves the range of {scheme.bits} bits: save it again")
