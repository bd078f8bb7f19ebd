"""The oracle: exact integer sums, float64 elsewhere, no regard for speed."""

from __future__ import annotations

import torch

from hf_quant.formats import format_of
from hf_quant.formats.base import Tensors
from hf_quant.formats.packing import unpack
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec, NeutralKernel
from hf_quant.kernels.weights import decode_rows, quantize_input, rotate_input, weight_zero_points


class ReferenceKernel(NeutralKernel):
    """``sum_g scale_g * sum_k (x - zx)_gk (w - zw)_gk``, the inner sums exact.

    Products of codes and their sums stay below 2**53, so float64 holds them exactly. Weights whose grid is not even are
    decoded to float32, and multiplied in float64.
    """

    name = "reference"

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None on devices that have float64, whatever the scheme; else why not."""
        return None if device.type in ("cpu", "cuda") else f"needs float64, which {device.type} lacks"

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        groups = (spec.groups, spec.group_size)
        if spec.scheme.input is None:
            left = rotate_input(input, spec).to(torch.float64)
            input_scale = torch.ones(1, 1, dtype=torch.float64, device=input.device)
        else:
            codes, scale, input_zero_point = quantize_input(input, operands, spec)
            left = codes.to(torch.float64) - (0 if input_zero_point is None else input_zero_point)
            input_scale = scale.to(torch.float64)
        if not spec.scheme.weight.facts.is_even:
            output = left @ decode_rows(operands, spec, slice(None)).to(torch.float64).t()
            return (output if operands.bias is None else output + operands.bias).to(input.dtype)
        right = unpack(operands.weight["codes"], spec.scheme.weight.bits, spec.in_features).to(torch.float64)
        right = right.unflatten(-1, groups)
        zero_point = weight_zero_points(operands, spec)
        if zero_point is not None:
            right = right - zero_point[..., None]
        sums = torch.einsum("tgk,ogk->tog", left.unflatten(-1, groups), right)
        output = (sums * operands.weight["scale"].to(torch.float64) * input_scale[:, None]).sum(-1)
        if operands.bias is not None:
            output = output + operands.bias
        return output.to(input.dtype)


def embedding(indices: torch.Tensor, weight: Tensors, spec: LinearSpec, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a quantized table: gathered as codes, decoded, rotated back; ``[*indices, in_features]`` in `dtype`."""
    scheme = spec.scheme.weight
    real = format_of(scheme).look_up(weight, spec.matrix, indices)
    return (real if scheme.rotation is None else rotate(real, scheme.rotation)).to(dtype)
