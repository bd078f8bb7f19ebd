"""What turns a float weight into codes, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from hf_quant.config.scheme import TensorScheme


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as it goes to disk.

    Args:
        codes: Packed int32 words ``[rows, words]``.
        scale: float32 ``[rows, 1]``, or ``[1, 1]`` per tensor, or bfloat16 ``[rows, groups]``.
        zero_point: int8 or int16 of the shape of `scale`; None when symmetric.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors under the names that quantized modules give them."""
        named = {"weight": self.codes, "weight_scale": self.scale, "weight_zero_point": self.zero_point}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class Solver(Protocol):
    """Weight to codes. Solvers declare what they need to know of the inputs; workflows supply it."""

    needs: str | None
    """Statistic of the inputs that `solve` takes, or None."""

    def solve(self, weight: torch.Tensor, scheme: TensorScheme, name: str) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats; `name` is for error messages.

        Raises:
            WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
        """
