"""Recognition of the activations that native kernels know, by what a module computes rather than by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from hf_quant.kernels.native.structs import ACTIVATIONS

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
}


_SIZES = torch.logspace(-6, 6, 97, device="cpu")
_POINTS = torch.cat([-_SIZES.flip(0), torch.linspace(-8, 8, 101, device="cpu"), _SIZES])
"""Up to where half precision ends: a clamp may lie anywhere."""


def activation_number(module: nn.Module) -> int | None:
    """The number of an activation in the native library; None for a module that is none of them."""
    points = _POINTS
    try:
        with torch.no_grad():
            found = module(points)
    except Exception:  # whatever it is, it is no activation
        return None
    if not isinstance(found, torch.Tensor) or found.shape != points.shape:
        return None
    for name, function in _FUNCTIONS.items():
        if torch.allclose(found, function(points), rtol=1e-5, atol=1e-6):
            return ACTIVATIONS[name]
    return None


def activation_function(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation function of a number in the native library."""
    return next(_FUNCTIONS[name] for name, known in ACTIVATIONS.items() if known == number and name is not None)
