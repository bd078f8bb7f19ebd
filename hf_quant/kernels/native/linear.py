"""Quantized linears on the package's own kernels."""

from __future__ import annotations

import torch

from hf_quant.formats import even_format
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native import structs
from hf_quant.kernels.native.layout import GROUP_MULTIPLE, flags_of, group_of, pack, unpack
from hf_quant.kernels.native.library import absence, load

_MOST_INPUTS = 1 << 16
_LARGEST_SUM = 2**31 - 1
"""Sums of products of codes are kept in 32 bits."""

_linear_op = torch.ops.hf_quant.native_linear.default
_embedding_op = torch.ops.hf_quant.native_embedding.default


class NativeKernel:
    """Integer sums as the reference's, exactly; scaled, and weight-only products taken, in float32.

    The weight lies in the kernels' own layout, whatever the instruction set. Results do not depend on the number of
    threads.
    """

    name = "native"
    replaces_weight = True
    fuses = True
    alignment = 1

    def unsupported(self, spec: LinearSpec, device: torch.device) -> str | None:
        """None for weights of 2 to 8 bits and inputs of 8 bits, unless dynamic per tensor, or floats; else why not."""
        weight, input = spec.scheme.weight, spec.scheme.input
        if device.type != "cpu":
            return "is for CPUs"
        if load() is None:
            return f"needs the native library, {absence()}"
        if not weight.facts.is_even or weight.bits > 8:
            return "needs weights of 2 to 8 bits on an even grid"
        if group_of(spec) % GROUP_MULTIPLE:
            return f"needs groups in multiples of {GROUP_MULTIPLE}"
        if input is None:
            return None
        if input.bits != 8:
            return "needs 8-bit or float inputs"
        if input.dynamic and input.granularity == "tensor":
            return "needs dynamic inputs to have a scale per token or group"
        # Codes less zero points: those of asymmetric formats may be all on one side.
        largest_weight = 2 ** (weight.bits - 1) if weight.symmetric else 2**weight.bits - 1
        largest_input = 127 if input.symmetric else 255
        most = min(_MOST_INPUTS, _LARGEST_SUM // (largest_weight * largest_input))
        if spec.in_features > _MOST_INPUTS or spec.group_size > most:
            return f"needs at most {most} inputs"
        return None

    def lay_out(self, operands: LinearOperands, spec: LinearSpec) -> tuple[torch.Tensor, ...]:
        """Prepack a weight: one tensor of uint8 blocks."""
        return (pack(operands, spec),)

    def arguments(
        self, layout: tuple[torch.Tensor, ...], operands: LinearOperands | None, spec: LinearSpec
    ) -> tuple[torch.Tensor, ...]:
        """Tensors that a call takes: uint8 blocks, uint8 spec, and an empty one that stands for a missing bias."""
        program = structs.ProgramSpec(magic=structs.MAGIC, count=1)
        program.steps[0] = step_spec(operands, spec)
        return layout[0], spec_tensor(program), torch.empty(0, dtype=torch.float32, device="cpu")

    def unpack(self, layout: tuple[torch.Tensor, ...], spec: LinearSpec) -> torch.Tensor:
        """The neutral int32 words that `lay_out` was given, bit for bit."""
        return unpack(layout[0], spec)

    def run(self, input: torch.Tensor, operands: LinearOperands, spec: LinearSpec) -> torch.Tensor:
        """Multiply inputs with the weight: ``[tokens, in] -> [tokens, out]`` in the dtype of `input`."""
        return self.fast(input, operands.packed, operands.bias, spec)

    @staticmethod
    def fast(
        input: torch.Tensor, packed: tuple[torch.Tensor, ...], bias: torch.Tensor | None, spec: LinearSpec
    ) -> torch.Tensor:
        """Multiply inputs, ``[..., in] -> [..., out]``: straight to the op, which checks all it is given."""
        blocks, program, none = packed
        if not input.is_contiguous():
            input = input.contiguous()
        return _linear_op(input, blocks, program, none if bias is None else bias, spec.out_features)

    @staticmethod
    def look_up(
        indices: torch.Tensor, packed: tuple[torch.Tensor, ...], spec: LinearSpec, like: torch.Tensor
    ) -> torch.Tensor:
        """Rows of the weight, turned back where they are rotated: ``[*indices.shape, in]`` in the dtype of `like`."""
        return _embedding_op(indices.contiguous(), packed[0], packed[1], like, spec.in_features)


def step_spec(operands: LinearOperands | None, spec: LinearSpec) -> structs.StepSpec:
    """The library's spec of one product with one weight; `operands` is None where rows are looked up."""
    input = spec.scheme.input
    step = structs.StepSpec(
        width=spec.in_features,
        rotation=spec.scheme.weight.rotation or 0,
        static_scale=1.0,
        weight_count=1,
    )
    step.weights[0] = weight_spec(spec)
    if input is None or operands is None:
        step.mode = structs.FLOAT_INPUT
    elif input.granularity == "group":
        step.mode, step.group = structs.GROUP_SYMMETRIC, group_of(spec)
    elif input.dynamic:
        step.mode = structs.TOKEN_SYMMETRIC if input.symmetric else structs.TOKEN_ASYMMETRIC
    else:
        assert operands.input_scale is not None
        step.mode = structs.STATIC
        step.static_scale = float(operands.input_scale)
        step.static_zero = 0 if operands.input_zero_point is None else int(operands.input_zero_point)
        step.static_lowest = even_format(input).quant_min
    return step


def weight_spec(spec: LinearSpec) -> structs.WeightSpec:
    """The library's spec of a packed weight: what its bytes mean."""
    return structs.WeightSpec(
        channels=spec.out_features, bits=spec.scheme.weight.bits, group=group_of(spec), flags=flags_of(spec)
    )


def spec_tensor(program: structs.ProgramSpec) -> torch.Tensor:
    """A program's spec as the ops take it: uint8 ``[bytes]``."""
    return torch.frombuffer(bytearray(bytes(program)), dtype=torch.uint8).clone()
