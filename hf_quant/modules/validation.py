"""The values of quantized tensors, checked before a kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import even_format, format_of
from hf_quant.formats.base import Matrix

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
    for key, (shape, dtype) in weight.facts.items():
        tensor = tensors[key]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name if key == 'codes' else f'{name}_{key}'} is {tensor.dtype} {list(tensor.shape)}, not {dtype} "
                f"{list(shape)}: download or save the checkpoint again"
            )
    matrix = Matrix(weight.scheme, weight.rows, weight.width)
    format_of(weight.scheme).check(tensors, matrix, name)


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
    format = even_format(scheme)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(f"{name}.input_scale is not finite and positive: calibrate and save it again")
    if zero_point is not None and not format.quant_min <= int(zero_point) <= format.quant_max:
        raise CheckpointError(f"{name}.input_zero_point leaves the range of {scheme.bits} bits: save it again")
