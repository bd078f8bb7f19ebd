"""Norms of the last dimension as one native call."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_quant.fusion.agreement import ROUNDING, SCALES, rows, shapes, ways_agree
from hf_quant.fusion.mixin import Fused, fuse_module
from hf_quant.fusion.stand_in import bare_copy
from hf_quant.kernels.native.structs import LAYER_NORM, RMS_NORM

_norm_op = torch.ops.hf_quant.native_norm.default

_ORDINARY = (1e-3, 1e-2, 0.1, 1.0, 8.0)


class NormFacts(NamedTuple):
    """What a norm was found to compute.

    Args:
        kind: Number of the norm's kind in the native library: RMS or layer norm.
        epsilon: Name of the attribute that holds the epsilon.
        offset: Number that is added to the weight.
        none: Empty tensor that stands for the bias that is not there.
    """

    kind: int
    epsilon: str
    offset: float
    none: torch.Tensor


class FusedNorm(Fused):
    """RMS norm, with its weight or one plus it, or layer norm without bias, over the last dimension, in one call.

    In one call, normalised numbers are rounded to half precision once, at the end. Modules round them there before
    they multiply (Llama), or not (Gemma); the difference is one of rounding.
    """

    fused: NormFacts

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the original norm; natively in evaluation, for one input on the CPU that needs no gradient."""
        if len(args) == 1 and not kwargs and not torch.compiler.is_compiling() and not self.training:  # type: ignore[attr-defined]
            kind, epsilon, offset, none = self.fused
            input = args[0]
            weight = self._parameters["weight"]  # type: ignore[attr-defined]
            needs_gradient = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
            if input.device.type == "cpu" and input.dtype == weight.dtype and not needs_gradient:
                if offset:
                    # In float32: bfloat16 holds 1 + w with fewer digits than w.
                    weight = weight.float() + offset
                input = input if input.is_contiguous() else input.contiguous()
                return _norm_op(input, weight, none, kind, getattr(self, epsilon))
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    @staticmethod
    def applies(module: nn.Module) -> list[NormFacts]:
        """Facts to try for a module with one row of weights only: kind, offset, and which number is its epsilon."""
        weight = module._parameters.get("weight")
        if type(module) is nn.LayerNorm:
            return []  # one call already, and a part of other fusions
        if [name for name, _ in module.named_parameters()] != ["weight"] or weight is None or weight.ndim != 1:
            return []
        if weight.device.type != "cpu" or not weight.is_floating_point() or any(True for _ in module.buffers()):
            return []
        numbers = [name for name, value in vars(module).items() if type(value) is float and 0 <= value < 1]
        none = torch.empty(0, device="cpu")
        kinds = product((RMS_NORM, LAYER_NORM), numbers, (0.0, 1.0))
        return [NormFacts(kind, name, offset, none) for kind, name, offset in kinds]

    @classmethod
    def proved(cls, module: nn.Module, facts: NormFacts) -> bool:
        """Whether the norm computes what the native one does, in float32, with its own weight and a random one."""
        weight = module._parameters["weight"]
        assert weight is not None
        width = weight.shape[0]
        generator = torch.Generator(device="cpu").manual_seed(0)
        drawn = torch.randn(width, generator=generator, device="cpu")
        epsilon = getattr(module, facts.epsilon)
        inputs = rows(width, scales=(*SCALES, max(epsilon, 1e-12) ** 0.5, max(epsilon, 1e-12)))
        return all(cls._agrees(module, facts, values, shapes(inputs)) for values in (drawn, weight.detach().float()))

    @staticmethod
    def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
        """Test rows of magnitudes that half precision holds."""
        weight = module.get_parameter("weight")
        width = weight.shape[0]
        return (rows(width, scales=_ORDINARY).to(weight.dtype).view(4, -1, width),)

    @staticmethod
    def tolerance(module: nn.Module) -> float:
        """Tolerance of the comparison: float rounding, or in half precision one rounding more or less."""
        dtype = module.get_parameter("weight").dtype
        return ROUNDING if dtype == torch.float32 else 2 * torch.finfo(dtype).eps

    @classmethod
    def _agrees(cls, module: nn.Module, facts: NormFacts, weight: torch.Tensor, inputs: list[torch.Tensor]) -> bool:
        plain, fast = bare_copy(module), bare_copy(module)
        plain._parameters["weight"] = fast._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        fuse_module(fast, cls, facts)
        return ways_agree(plain, fast, [(each,) for each in inputs])
