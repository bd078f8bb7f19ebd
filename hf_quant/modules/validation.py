"""The values of quantized tensors, checked before a kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError
from hf_quant.formats import even_format, format_of
from hf_quant.formats.base import Matrix, TensorFacts


def check_weight(tensors: Mapping[str, torch.Tensor], matrix: Matrix, name: str) -> None:
    """Raise CheckpointError if a tensor of a weight holds what no quantizer writes: see the messages.

    Args:
        tensors: Tensors of the weight, by the names of its format.
        matrix: Scheme and shape that the tensors should have.
        name: Full name of the parameter, for messages.
    """
    format = format_of(matrix.scheme)
    for key, (shape, dtype) in format.tensors(matrix).items():
        tensor = tensors[key]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name if key == 'codes' else f'{name}_{key}'} is {tensor.dtype} {list(tensor.shape)}, not {dtype} "
                f"{list(shape)}: download or save the checkpoint again"
            )
    format.check(tensors, matrix, name)


def check_grid(tensors: Mapping[str, torch.Tensor], facts: TensorFacts, scheme: TensorScheme, name: str) -> None:
    """Raise CheckpointError if the grid of a module's static inputs is none that calibration writes.

    Args:
        tensors: ``input_scale`` and, for asymmetric schemes, ``input_zero_point``.
        facts: Shape and dtype that each of them should have.
        scheme: Format of the inputs.
        name: Name of the module, for messages.
    """
    for key, tensor in tensors.items():
        shape, dtype = facts[key]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{name}.{key} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}: "
                "download or save the checkpoint again"
            )
    scale, zero_point, format = tensors["input_scale"], tensors.get("input_zero_point"), even_format(scheme)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(f"{name}.input_scale is not finite and positive: calibrate and save it again")
    if zero_point is not None and not format.quant_min <= int(zero_point) <= format.quant_max:
        raise CheckpointError(f"{name}.input_zero_point leaves the range of {scheme.bits} bits: save it again")
