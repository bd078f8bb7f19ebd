"""Decode the weight block by block and multiply in float: runs every scheme on every device."""

from __future__ import annotations

import torch

from hf_quant.kernels.base import LinearOperands, LinearSpec, NeutralKernel
from hf_quant.kernels.weights import decode_rows, fake_quantize_input

_BLOCK_BYTES = 1 << 24
"""float32 bytes decoded at a time on CPU: stays in the second-level cache and below malloc's mmap threshold,
past which each temporary is paid for in page faults."""


class DequantizeKernel(NeutralKernel):
    """Float matmul on a weight decoded in blocks of output channels."""

    name = "aten_dequantize"

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None: this kernel runs every scheme and shape on every device."""
        return None

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        dtype = self.compute_dtype(input, spec)
        left = fake_quantize_input(input, operands, spec).to(dtype)
        rows = spec.out_features if input.device.type != "cpu" else block_rows(spec)
        outputs = []
        for start in range(0, spec.out_features, rows):
            weight = decode_rows(operands, spec, slice(start, min(start + rows, spec.out_features)))
            outputs.append(torch.nn.functional.linear(left, weight.to(dtype)))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if operands.bias is not None:
            output += operands.bias
        return output.to(input.dtype)

    def compute_dtype(self, input: torch.Tensor, spec: LinearSpec) -> torch.dtype:
        """Dtype that the product is taken in: bfloat16 only where the input is, and is not rounded to codes."""
        return torch.bfloat16 if input.dtype is torch.bfloat16 and spec.scheme.input is None else torch.float32


def block_rows(spec: LinearSpec) -> int:
    """Number of output channels decoded at a time."""
    return max(16, _BLOCK_BYTES // (4 * spec.in_features))
