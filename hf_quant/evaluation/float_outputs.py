"""What a model or a module gives as floats, and how far that is from what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def float_outputs(value: Any) -> Iterator[Tensor]:
    """Tensors of floats in an output: one itself, or those in tuples, lists and mappings, in their order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from float_outputs(part)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest error in norm of tensors, relative to those that are expected.

    Infinite where shapes differ, one is not finite alone, or nothing is finite that could be compared.

    Args:
        found: Tensors of floats.
        expected: As many of them.
    """
    errors = [0.0]
    for one, other in zip(found, expected, strict=True):
        finite = other.isfinite()
        if one.shape != other.shape or not torch.equal(finite, one.isfinite()) or (other.numel() and not finite.any()):
            return float("inf")
        difference, size = (one.double() - other.double())[finite].norm(), other.double()[finite].norm()
        errors.append(float(difference / size.clamp(min=1e-30)))
    return max(errors)
