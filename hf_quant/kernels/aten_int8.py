"""W8A8 by ATen's integer matmul, on the codes as they lie in the checkpoint."""

from __future__ import annotations

import torch

from hf_quant.formats.packing import unpack
from hf_quant.hardware.detect import cpu_features
from hf_quant.kernels.base import LinearOperands, LinearSpec, NeutralKernel
from hf_quant.kernels.weights import quantize_input


class Int8Kernel(NeutralKernel):
    """int8 x int8 -> int32 matmul (oneDNN), then one scale per token and channel.

    Without VNNI instructions the 16-bit intermediate sums of x86 saturate, so the kernel is only for CPUs that
    have them.
    """

    name = "aten_int8"

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """Symmetric W8A8 per channel or tensor, on a CPU with VNNI."""
        weight, input = spec.scheme.weight, spec.scheme.input
        if weight.bits != 8 or input is None or input.bits != 8:
            return "needs 8-bit weights and inputs"
        if not weight.symmetric or not input.symmetric or spec.groups != 1:
            return "needs symmetric scales per channel or tensor"
        if device.type != "cpu":
            return "is for CPUs"
        if not cpu_features().vnni:
            return "needs a CPU with VNNI instructions"
        return None

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        codes, scale, _ = quantize_input(input, operands, spec)
        weight = unpack(operands.weight, 8, spec.in_features)
        output = torch._int_mm(codes, weight.t()).to(torch.float32)
        output *= scale
        output *= operands.weight_scale.view(1, -1)
        if operands.bias is not None:
            output += operands.bias
        return output.to(input.dtype)
