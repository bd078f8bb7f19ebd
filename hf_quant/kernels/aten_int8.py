"""W8A8 by ATen's integer matmul, on the codes as they lie in the checkpoint."""

from __future__ import annotations

from functools import lru_cache

import torch

from hf_quant.formats.packing import unpack
from hf_quant.hardware.detect import cpu_features
from hf_quant.kernels.base import LinearOperands, LinearSpec, NeutralKernel
from hf_quant.kernels.weights import quantize_input


class Int8Kernel(NeutralKernel):
    """int8 x int8 -> int32 matmul (oneDNN), then one scale per token and channel.

    Without VNNI instructions the 16-bit intermediate sums of x86 saturate, so the kernel is only for CPUs that
    have them, and only where oneDNN was not told to leave them alone (``ONEDNN_MAX_CPU_ISA``).
    """

    name = "aten_int8"

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None for W8A8 with symmetric weights per channel or tensor, on a CPU with VNNI; else why not."""
        weight, input = spec.scheme.weight, spec.scheme.input
        if weight.bits != 8 or not weight.facts.is_even or input is None or input.bits != 8:
            return "needs 8-bit weights and inputs"
        if not weight.symmetric or spec.groups != 1:
            return "needs symmetric weight scales per channel or tensor"
        if device.type != "cpu":
            return "is for CPUs"
        if not cpu_features().vnni:
            return "needs a CPU with VNNI instructions"
        if not _is_exact():
            return "needs oneDNN to use the CPU's VNNI instructions: unset ONEDNN_MAX_CPU_ISA"
        return None

    def lay_out(self, operands: LinearOperands, spec: LinearSpec) -> tuple[torch.Tensor, ...]:
        """Sums of each channel's codes, int32 ``[out]``, for zero points of inputs; empty if inputs have none."""
        assert spec.scheme.input is not None
        return () if spec.scheme.input.symmetric else (_channel_sums(operands, spec),)

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        codes, scale, zero_point = quantize_input(input, operands, spec)
        weight = unpack(operands.weight["codes"], 8, spec.in_features)
        sums = torch._int_mm(codes, weight.t())
        if zero_point is not None:
            channels = operands.packed[0] if operands.packed else _channel_sums(operands, spec)
            sums = torch.addcmul(sums, zero_point.to(torch.int32), channels, value=-1)
        output = sums.to(torch.float32)
        output *= scale
        output *= operands.weight["scale"].view(1, -1).to(torch.float32)
        if operands.bias is not None:
            output += operands.bias
        return output.to(input.dtype)


@lru_cache(maxsize=1)
def _is_exact() -> bool:
    """Whether sums of the largest products come out right, for one token and for many."""
    weight = torch.full((64, 64), -127, dtype=torch.int8, device="cpu")
    weight[1::2] = 127
    expected = weight[:, 0].to(torch.int32) * (127 * 64)
    for tokens in (1, 64):
        left = torch.full((tokens, 64), 127, dtype=torch.int8, device="cpu")
        if not torch.equal(torch._int_mm(left, weight.t()), expected.expand(tokens, 64)):
            return False
    return True


def _channel_sums(operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
    # A product with ones rather than a sum: torch would first widen the whole weight to int32.
    weight = unpack(operands.weight["codes"], 8, spec.in_features)
    return torch._int_mm(torch.ones(1, spec.in_features, dtype=torch.int8, device="cpu"), weight.t())[0]
