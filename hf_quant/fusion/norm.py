"""Root-mean-square norms as one native call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_quant.fusion.mixin import Fused, random_rows
from hf_quant.kernels.native.structs import RMS_NORM

_norm_op = torch.ops.hf_quant.native_norm.default


class FusedRmsNorm(Fused):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    `fused` is the epsilon and an empty tensor, which stands for the bias that is not there. In one call, normalised
    numbers are rounded to half precision once, not twice.
    """

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the original; natively for one input on the CPU that needs no gradient."""
        if len(args) == 1 and not kwargs and not torch.compiler.is_compiling():
            epsilon, none = self.fused
            input = args[0]
            weight = self._parameters["weight"]  # type: ignore[attr-defined]
            needs_gradient = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
            if input.device.type == "cpu" and input.dtype == weight.dtype and not needs_gradient:
                return _norm_op(input if input.is_contiguous() else input.contiguous(), weight, none, RMS_NORM, epsilon)
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    @staticmethod
    def applies(module: nn.Module) -> list[Any]:
        """A module with a weight and an epsilon and nothing else, called a norm."""
        if "norm" not in type(module).__name__.lower() or isinstance(module, nn.LayerNorm):
            return []
        names = [name for name, _ in module.named_parameters()]
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if names != ["weight"] or not isinstance(epsilon, float) or any(module.buffers()):
            return []
        weight = module.weight
        if not isinstance(weight, torch.Tensor) or weight.ndim != 1 or weight.device.type != "cpu":
            return []
        return [(epsilon, torch.empty(0, device="cpu"))]

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Rows of the width of the weight."""
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        return (random_rows(weight.shape[0], weight.dtype),)
