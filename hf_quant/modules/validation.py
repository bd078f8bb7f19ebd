"""The values of a quantized module's tensors, checked before a kernel reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import affine_format
from hf_quant.formats.packing import padding_is_zero, unpack

if TYPE_CHECKING:
    from hf_quant.modules.base import QuantizedModule


def check_values(module: QuantizedModule, name: str) -> None:
    """Raise CheckpointError if a tensor of `module` holds what no quantizer writes: see the messages."""
    scale, zero_point, scheme = module.weight_scale, module.weight_zero_point, module.spec.scheme.weight
    format = affine_format(scheme)
    for key, (shape, dtype) in module.tensor_facts().items():
        tensor = getattr(module, key)
        if tensor.shape != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name}.{key} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}: "
                "download or save the checkpoint again"
            )
    _check_input(module, name)
    signed = format.has_signed_scales
    if not bool((torch.isfinite(scale) & (scale != 0 if signed else scale > 0)).all()):
        kind = "not finite, or zero" if signed else "not finite and positive"
        raise CheckpointError(f"{name}.weight_scale holds values that are {kind}: save it again")
    if zero_point is not None and not padding_is_zero(zero_point, scheme.bits, scale.numel()):
        raise CheckpointError(f"{name}.weight_zero_point has bits set after its last one: save the checkpoint again")
    if module.is_replaced:
        return  # made from codes that were checked before
    if not padding_is_zero(module.weight.data, scheme.bits, module.spec.in_features):
        raise CheckpointError(f"{name}.weight has bits set after its last code: save the checkpoint again")
    if format.quant_min > -(2 ** (scheme.bits - 1)):
        codes = unpack(module.weight.data, scheme.bits, module.spec.in_features)
        if codes.numel() and int(codes.min()) < format.quant_min:
            raise CheckpointError(
                f"{name}.weight holds a code below {format.quant_min}, which symmetric {scheme.bits}-bit "
                "quantization never writes: save the checkpoint again"
            )


def _check_input(module: QuantizedModule, name: str) -> None:
    scale, zero_point, scheme = module.input_scale, module.input_zero_point, module.spec.scheme.input
    if scheme is None or scale is None:
        return
    format = affine_format(scheme)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(f"{name}.input_scale is not finite and positive: calibrate and save it again")
    if zero_point is not None and not format.quant_min <= int(zero_point) <= format.quant_max:
        raise CheckpointError(f"{name}.input_zero_point leaves the range of {scheme.bits} bits: save it again")
