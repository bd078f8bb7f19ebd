"""One quantized module where it stands in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_quant.export.onnx.blocks import Integers, block_of_row, container, integers, to_blocks, to_bytes
from hf_quant.export.onnx.graph import Builder
from hf_quant.modules.base import PARAMETER, QuantizedModule
from hf_quant.modules.weight import Weight

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class Site:
    """A quantized module, its input in the graph, and the graph.

    Args:
        build: Adds nodes.
        name: Full name of the module.
        module: It.
        input: float32 ``[..., in]``, or ids ``[...]``.
        owner: Name of the first module that holds the same weight; `name` where that is this one.
        shared: Whether another module holds the weight, too.
        in_blocks: Whether one of those takes it in blocks, as which it is stored then.
    """

    build: Builder
    name: str
    module: QuantizedModule
    input: onnx_ir.Value
    owner: str
    shared: bool
    in_blocks: bool

    @property
    def rank(self) -> int:
        """Axes of the input."""
        assert self.input.shape is not None
        return len(self.input.shape)

    @property
    def looks_up(self) -> bool:
        """Whether rows are looked up, rather than multiplied with."""
        return isinstance(self.module, nn.Embedding)

    @property
    def width(self) -> int:
        """Numbers in a row of the weight."""
        return self.module.spec.in_features

    @property
    def rows(self) -> int:
        """Rows of the weight."""
        return self.module.spec.out_features

    @property
    def block_size(self) -> int:
        """Codes in a block of a row, where the weight is stored in blocks."""
        return block_of_row(self.module.spec.group_size)

    @cached_property
    def weight(self) -> Integers:
        """The weight as integers."""
        self.module.assemble()
        held: Weight = self.module.weights[PARAMETER]
        return integers(held.neutral(), held.matrix)

    @property
    def rotated_input(self) -> onnx_ir.Value:
        """The input, rotated where the weight is."""
        return self.build.rotated(self.input, self.rank, self.width, self.module.spec.scheme.weight.rotation)

    def tensor(self, kind: str, values: torch.Tensor) -> onnx_ir.Value:
        """A tensor of the file that this module has alone, such as its ``"scale"``."""
        return self.build.tensor(f"{self.name}.{kind}", values)

    def shared_tensor(self, kind: str, values: torch.Tensor) -> onnx_ir.Value:
        """A tensor of the file that all who hold the weight read."""
        return self.build.tensor(f"{self.owner}.{kind}", values)

    def table(self, bits: int) -> onnx_ir.Value:
        """Codes uint8 ``[rows, bytes]``, or in blocks, stored once for all who hold the weight."""
        if self.in_blocks:
            values = to_blocks(self.weight.codes, bits, self.block_size)
        else:
            values = to_bytes(self.weight.codes, bits)
        return self.build.tensor(f"{self.owner}.codes", values)

    def blocks(self, bits: int) -> onnx_ir.Value:
        """Codes uint8 ``[rows, blocks, bytes]``, a table's where an embedding looks up rows of them."""
        if self.shared and bits == container(self.module.spec.scheme.weight.bits):
            return self.table(bits)
        return self.tensor("blocks" if self.shared else "codes", to_blocks(self.weight.codes, bits, self.block_size))

    def columns(self) -> onnx_ir.Value:
        """Codes of 8 bits, uint8 ``[in, rows]``, made of a table where an embedding looks up rows of them."""
        if self.shared and container(self.module.spec.scheme.weight.bits) == 8 and not self.in_blocks:
            return self.build.node("Transpose", [self.table(8)], perm=[1, 0])
        return self.tensor("columns" if self.shared else "codes", to_bytes(self.weight.codes.t().contiguous(), 8))

    def with_bias(self, product: onnx_ir.Value) -> onnx_ir.Value:
        """A product with the module's bias added, where it has one."""
        bias: Any = getattr(self.module, "bias", None)
        if bias is None:
            return product
        return self.build.node("Add", [product, self.tensor("bias", bias.detach().to(torch.float32))])
