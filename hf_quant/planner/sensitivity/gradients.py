"""Gradients of some parameters, in a model that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hf_quant.errors import CalibrationError


@contextmanager
def gradients_of(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which gradients of the given weights alone are computed; undone at the end."""
    wanted = {id(weight) for weight in weights}
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
        parameter.grad = None
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, requires, gradient in before:
            parameter.requires_grad_(requires)
            parameter.grad = gradient


def require_finite(loss: Tensor) -> None:
    """Refuse a loss that is not finite.

    Raises:
        CalibrationError: The loss is NaN or infinite.
    """
    if not bool(torch.isfinite(loss)):
        raise CalibrationError("the model's loss is NaN or infinite on the data: load it in float32")
