"""Weights of up to 4 bits in the layout of ATen's int4 matmul for CPUs.

The layout is blocks of output channels; a block holds, for each input, the codes of its first half of channels in
low nibbles and of its second half in high nibbles. It is not part of ATen's interface, so `_block_channels` checks
it on the machine at hand before the kernel offers itself. Knowing it serves twice: the neutral codes can be freed
and recovered bit for bit, and many tokens can be multiplied with a weight decoded straight from this layout.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from hf_quant.formats.packing import pack, unpack
from hf_quant.hardware.detect import cpu_features
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.weights import fake_quantize_input, quantize_input, rotate_input, weight_zero_points

_GROUP_SIZES = (256, 128, 64, 32)
_DECODE_TOKENS = 96
"""ATen's op costs time in proportion to the tokens; past this many, decoding the weight once is cheaper."""
_BLOCK_BYTES = 1 << 24
_OFFSET = 8
"""ATen stores a signed 4-bit code plus 8."""


class Int4PackKernel:
    """bfloat16 arithmetic on 4-bit weights: integer activations up to 8 bits are exact in it.

    Scales round to bfloat16 for up to 96 tokens and products to bfloat16 on output, so outputs lie within 1e-2
    (relative, in norm) of the reference.
    """

    name = "aten_int4pack"
    replaces_weight = True
    alignment = 1
    fast = None
    look_up = None
    fuses = False

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None for 2 to 4 bits, groups of a multiple of 32, 8-bit or float inputs, on x86 CPUs; else why not."""
        weight, input = spec.scheme.weight, spec.scheme.input
        if not weight.facts.is_even or weight.bits > 4 or weight.granularity == "tensor":
            return "needs weights of 2 to 4 bits on an even grid, per channel or group"
        if input is not None and input.bits != 8:
            return "needs 8-bit or float inputs"
        if device.type != "cpu":
            return "is for CPUs"
        if _kernel_group(spec) is None:
            return f"needs groups that are multiples of {_GROUP_SIZES[-1]}"
        block = _block_channels()
        if block is None:
            return "needs AVX2 or AVX512 and the int4 layout this package knows"
        if spec.out_features % block:
            return f"needs output channels in multiples of {block}"
        return None

    def lay_out(self, operands: LinearOperands, spec: LinearSpec) -> tuple[torch.Tensor, ...]:
        """Prepack a weight: uint8 codes ``[out, in/2]``, bfloat16 pairs of scale and offset ``[in/group, out, 2]``."""
        block = _block_channels()
        assert block is not None
        words = operands.weight["codes"]
        rows = max(block, _BLOCK_BYTES // (4 * spec.in_features) // block * block)
        packed = torch.empty(spec.out_features, spec.in_features // 2, dtype=torch.uint8, device=words.device)
        for start in range(0, spec.out_features, rows):
            part = slice(start, start + rows)
            codes = unpack(words[part], spec.scheme.weight.bits, spec.in_features)
            packed[part] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32) + _OFFSET, 1)
        scale = operands.weight["scale"].to(torch.bfloat16)
        offset = torch.zeros_like(scale)
        zero_point = weight_zero_points(operands, spec)
        if zero_point is not None:
            offset = -(zero_point * scale.to(torch.float32)).to(torch.bfloat16)
        kernel_group = _kernel_group(spec)
        assert kernel_group is not None
        pairs = torch.stack([scale, offset], -1).repeat_interleave(spec.group_size // kernel_group, dim=1)
        return packed, pairs.transpose(0, 1).contiguous()

    def arguments(
        self, layout: tuple[torch.Tensor, ...], operands: LinearOperands | None, spec: LinearSpec
    ) -> tuple[torch.Tensor, ...]:
        """Tensors that a call takes: those of the layout."""
        return layout

    def unpack(self, layout: tuple[torch.Tensor, ...], spec: LinearSpec) -> torch.Tensor:
        """The neutral int32 words that `lay_out` was given, bit for bit."""
        codes = _block_codes(layout[0], spec, slice(0, spec.out_features))
        return pack(codes.to(torch.int8).sub_(_OFFSET).t(), spec.scheme.weight.bits)

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        left, scale = rotate_input(input, spec), None
        if spec.scheme.input is not None and spec.scheme.input.granularity == "group":
            # Each group has a scale of its own, so there is no integer product to be scaled afterwards.
            left = fake_quantize_input(input, operands, spec)
        elif spec.scheme.input is not None:
            left, scale, zero_point = quantize_input(input, operands, spec)
            if zero_point is not None:
                # At most 255 in magnitude: bfloat16 holds it exactly.
                left = left.to(torch.int16) - zero_point
        if input.shape[0] <= _DECODE_TOKENS:
            codes, pairs = operands.packed
            output = torch.ops.aten._weight_int4pack_mm_for_cpu(
                left.to(torch.bfloat16).contiguous(), codes, _kernel_group(spec), pairs
            )
        else:
            output = self._run_decoded(left, operands, spec)
        if scale is not None:
            output = output * scale
        if operands.bias is not None:
            output = output + operands.bias
        return output.to(input.dtype)

    def _run_decoded(self, left: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        dtype = torch.bfloat16 if cpu_features().bf16 else torch.float32
        left = left.to(dtype)
        block = _block_channels()
        assert block is not None
        columns = max(block, _BLOCK_BYTES // (4 * spec.in_features) // block * block)
        outputs = []
        for start in range(0, spec.out_features, columns):
            part = slice(start, min(start + columns, spec.out_features))
            # In float32, although the product is not: torch has fast loops for that only.
            weight = _block_codes(operands.packed[0], spec, part).to(torch.float32)
            weight = weight.unflatten(0, (spec.groups, spec.group_size))
            zero_point = weight_zero_points(operands, spec, part)
            weight -= _OFFSET if zero_point is None else zero_point.t()[:, None].to(torch.float32) + _OFFSET
            weight *= operands.weight["scale"][part].t()[:, None].to(torch.float32)
            outputs.append(left @ weight.flatten(0, 1).to(dtype))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def _block_codes(packed: torch.Tensor, spec: LinearSpec, part: slice) -> torch.Tensor:
    """uint8 codes plus 8 of the output channels `part`, ``[in, channels]``."""
    block = _block_channels()
    assert block is not None
    nibbles = packed[part].view(-1, spec.in_features, block // 2).transpose(0, 1)
    return torch.cat([nibbles & 15, nibbles >> 4], -1).flatten(1)


def _kernel_group(spec: LinearSpec) -> int | None:
    """Largest group that ATen's op knows and that divides the scheme's."""
    return next((size for size in _GROUP_SIZES if spec.group_size % size == 0), None)


@lru_cache(maxsize=1)
def _block_channels() -> int | None:
    """Output channels in one block of the layout, after checking the layout; None where it is not known."""
    block = {"AVX512": 64, "AVX2": 32}.get(cpu_features().capability)
    if block is None:
        return None
    inputs = 32
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (2 * block, inputs), generator=generator, dtype=torch.int32, device="cpu")
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    nibbles = packed.flatten().view(2, inputs, block // 2)
    found = torch.cat([nibbles & 15, nibbles >> 4], -1).transpose(1, 2).reshape(2 * block, inputs)
    return block if torch.equal(found.to(torch.int32), codes) else None
