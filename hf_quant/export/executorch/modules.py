"""Modules that compute what quantized ones do, by the operators that XNNPACK and ExecuTorch's kernels know.

XNNPACK multiplies signed codes without zero points, by scales above 0. What is not so is folded: where a scale is
negative, ``scale * (code - zero) == abs(scale) * ((-1 - code) - (-1 - zero))``, and zero points become a linear of the
sums of the input's groups, which is small.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_quant.errors import ExportError
from hf_quant.export.onnx.blocks import Integers, integers
from hf_quant.formats.rotation import rotate
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.joined import Counterpart
from hf_quant.modules.stored import StoredModule

_BYTE = (-128, 127)
_GROUP_BITS = 4
"""Bits of the codes that XNNPACK takes in groups."""


def stand_in(name: str, module: QuantizedModule | StoredModule) -> Counterpart:
    """What stands in a traced model for a module.

    Raises:
        ExportError: Scales of its groups have more bits than XNNPACK's, which are bfloat16.
    """
    if isinstance(module, StoredModule):
        return Floats(module)
    if not module.multiplies:
        return Table(module)
    made = Product(module)
    if made.group_size and not torch.equal(made.scale, made.scale.bfloat16().float()):
        raise ExportError(
            f"{name} has scales of groups that are no bfloat16, as XNNPACK takes them: quantize the float model to "
            "groups with hf_quant, whose scales are, or take the target onnx"
        )
    return made


@cache
def _hadamard(size: int) -> Tensor:
    return rotate(torch.eye(size), size)


class _Replacement(Counterpart):
    """What all replacements have.

    Args:
        module: The module that it stands for.
        rotation: Size of the blocks that its rows are rotated in.
    """

    bias: Tensor | None
    matrix: Tensor | None

    def __init__(self, module: nn.Module, rotation: int | None):
        super().__init__()
        # Whatever reads the float weight itself gets NaN, which is found when the program is run.
        shape = tuple(module.weight.shape)  # type: ignore[arg-type]
        self.weight = torch.full((1, 1), torch.nan).expand(shape)
        bias = getattr(module, "bias", None)
        self.register_buffer("bias", bias.detach().float() if isinstance(bias, Tensor) else None)
        self.register_buffer("matrix", None if rotation is None else _hadamard(rotation))

    def rotated(self, values: Tensor) -> Tensor:
        """float32 ``[..., width]`` with each block rotated; a rotation is its own inverse."""
        if self.matrix is None:
            return values
        return (values.unflatten(-1, (-1, len(self.matrix))) @ self.matrix).flatten(-2)


class Floats(_Replacement):
    """A linear or embedding of 16-bit floats, in float32."""

    values: Tensor

    def __init__(self, module: StoredModule):
        super().__init__(module, None)
        self.looks_up = isinstance(module, nn.Embedding)
        is_matrix = self.looks_up or hasattr(module, "out_features")
        values = module.weight.detach().float()
        self.register_buffer("values", values if is_matrix else values.t().contiguous())

    def forward(self, input: Tensor) -> Tensor:
        """float32 ``[..., in]``, or ids ``[...]``, to float32 ``[..., out]``."""
        return F.embedding(input, self.values) if self.looks_up else F.linear(input, self.values, self.bias)


class Table(_Replacement):
    """An embedding, whose codes lie in bytes."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, module: QuantizedModule):
        super().__init__(module, module.spec.scheme.weight.rotation)
        numbers = integers(module.neutral(), module.spec.matrix)
        zero = numbers.zero_point
        scale = numbers.scale.contiguous()
        # One scale of a row is a vector, as the operator takes it.
        flat = scale.shape[1] == 1
        self.register_buffer("codes", numbers.codes.contiguous())
        self.register_buffer("scale", scale.flatten() if flat else scale)
        zeros = torch.zeros_like(scale) if zero is None else zero.float().contiguous()
        self.register_buffer("zero_point", zeros.flatten() if flat else zeros)

    def forward(self, input: Tensor) -> Tensor:
        """Ids ``[...]`` to float32 ``[..., width]``."""
        look_up = torch.ops.quantized_decomposed.embedding_byte.default
        return self.rotated(look_up(self.codes, self.scale, self.zero_point, *_BYTE, input))


class Product(_Replacement):
    """A linear whose inputs are quantized per token."""

    codes: Tensor
    scale: Tensor
    zeros: Tensor
    correction: Tensor | None

    def __init__(self, module: QuantizedModule):
        super().__init__(module, module.spec.scheme.weight.rotation)
        matrix = module.spec.matrix
        self.group_size = matrix.scheme.group_size
        folded = fold(integers(module.neutral(), matrix), in_bytes=self.group_size is None)
        scale = folded.scale if self.group_size else folded.scale[:, 0]
        self.register_buffer("codes", folded.codes.contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zeros", torch.zeros_like(scale, dtype=torch.int32))
        zero = folded.zero_point
        self.register_buffer("correction", None if zero is None else -(folded.scale * zero))

    def forward(self, input: Tensor) -> Tensor:
        """float32 ``[..., in]`` to float32 ``[..., out]``."""
        input = self.rotated(input)
        product = F.linear(_per_token(input), self._weight(), self.bias)
        if self.correction is None:
            return product
        # Quantized once more: XNNPACK takes the first as a part of its own product.
        sums = _per_token(input).unflatten(-1, (self.correction.shape[1], -1)).sum(-1)
        return product + F.linear(sums, self.correction)

    def _weight(self) -> Tensor:
        operators, int8 = torch.ops.quantized_decomposed, torch.int8
        if not self.group_size:
            decode = operators.dequantize_per_channel.default
            return decode(self.codes, self.scale, self.zeros, 0, *_BYTE, int8)
        low, high = -(2 ** (_GROUP_BITS - 1)), 2 ** (_GROUP_BITS - 1) - 1
        decode = operators.dequantize_per_channel_group.default
        return decode(self.codes, self.scale, self.zeros, low, high, int8, self.group_size, torch.float32)


def fold(numbers: Integers, in_bytes: bool) -> Integers:
    """The same numbers with scales above 0, and zero points only where they cannot be had without.

    Args:
        numbers: A matrix.
        in_bytes: Whether codes lie in bytes, in which there may be room for what zero points take from them.

    Returns:
        Codes int8, scale float32, and zero points int16, None where all are 0.
    """
    codes, groups = numbers.codes.to(torch.int16), numbers.scale.shape[1]
    zero = torch.zeros_like(numbers.scale, dtype=torch.int16)
    if numbers.zero_point is not None:
        zero = numbers.zero_point.to(torch.int16)
    is_negative, scale = numbers.scale < 0, numbers.scale.abs()
    codes = codes.unflatten(-1, (groups, -1))
    if (is_null := scale == 0).any():
        # Whatever the codes, these are zeros: XNNPACK takes no scale of 0.
        scale, zero = scale.masked_fill(is_null, 1), zero.masked_fill(is_null, 0)
        codes = codes.masked_fill(is_null[..., None], 0)
    if in_bytes:
        levels = codes - zero[..., None]
        levels = torch.where(is_negative[..., None], -levels, levels)
        if int(levels.min()) >= _BYTE[0] and int(levels.max()) <= _BYTE[1]:
            return Integers(levels.flatten(-2).to(torch.int8), scale, None)
    codes = torch.where(is_negative[..., None], -1 - codes, codes)
    zero = torch.where(is_negative, -1 - zero, zero)
    return Integers(codes.flatten(-2).to(torch.int8), scale, zero if zero.any() else None)


def _per_token(input: Tensor) -> Tensor:
    """float32 ``[..., in]`` as int8 codes per token stand for it."""
    operators, int8 = torch.ops.quantized_decomposed, torch.int8
    scale, zero_point = operators.choose_qparams_per_token_asymmetric.default(input, int8)
    codes = operators.quantize_per_token.default(input, scale, zero_point, *_BYTE, int8)
    return operators.dequantize_per_token.default(codes, scale, zero_point, *_BYTE, int8, torch.float32)
