"""Weight-only INT8 by ATen's bfloat16 x int8 matmul, on the codes as they lie in the checkpoint."""

from __future__ import annotations

import torch

from hf_quant.formats.packing import WORD_BITS, unpack
from hf_quant.hardware.detect import cpu_features
from hf_quant.kernels.aten_dequantize import DequantizeKernel
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import rotate_input

_DECODE_TOKENS = 48
"""ATen's op costs time in proportion to the tokens; past this many, decoding the weight once is cheaper."""


class Int8PackKernel(DequantizeKernel):
    """bfloat16 activations on int8 weights for few tokens; matmul on a decoded weight for many.

    The fp32 variant of ATen's op is a scalar loop, so activations are rounded to bfloat16, as for many tokens where
    the CPU multiplies bfloat16 in hardware: outputs lie within 1e-2 (relative, in norm) of the reference.
    """

    name = "aten_int8pack"
    alignment = 16

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None for symmetric weight-only INT8 per channel, widths in multiples of 16, on x86 CPUs; else why not."""
        weight = spec.scheme.weight
        if weight.bits != 8 or not weight.facts.is_even or spec.scheme.input is not None:
            return "needs 8-bit weights on an even grid and float inputs"
        if not weight.symmetric or weight.granularity != "channel":
            return "needs symmetric scales per channel"
        if device.type != "cpu" or cpu_features().capability not in ("AVX512", "AVX2"):
            return "is for CPUs with AVX2 or AVX512"
        if spec.in_features % (WORD_BITS // 2) or spec.out_features % 16:
            return "needs widths in multiples of 16"
        return None

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        if input.shape[0] > _DECODE_TOKENS:
            return super().run(input, operands, spec)
        weight = _aligned(unpack(operands.weight["codes"], 8, spec.in_features))
        scale = operands.weight["scale"].flatten().to(torch.bfloat16)
        left = _aligned(rotate_input(input, spec).to(torch.bfloat16).contiguous())
        output = torch.ops.aten._weight_int8pack_mm(left, weight, scale)
        if operands.bias is not None:
            output = output + operands.bias
        return output.to(input.dtype)

    def compute_dtype(self, input: torch.Tensor, spec: LinearSpec) -> torch.dtype:
        """Dtype that the product is taken in: bfloat16 where the CPU multiplies it in hardware."""
        return torch.bfloat16 if cpu_features().bf16 else super().compute_dtype(input, spec)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    # ATen's op loads 16 bytes at a time with instructions that fault on any other address.
    return tensor if tensor.data_ptr() % Int8PackKernel.alignment == 0 else tensor.clone()
