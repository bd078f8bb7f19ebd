"""Nodes and tensors added to a graph, each tensor once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_quant.formats.rotation import rotate

if TYPE_CHECKING:
    import onnx_ir

RUNTIME = "com.microsoft"
"""Domain of the operators that ONNX Runtime and OpenVINO have beyond the standard."""


class Builder:
    """Puts nodes before one that is to be replaced.

    Args:
        model: Changed in place.
    """

    def __init__(self, model: onnx_ir.Model):
        self.model, self.graph = model, model.graph
        self.before: onnx_ir.Node | None = None
        """The node that new ones are put before."""
        self.prefix = ""
        """Name of the module that new nodes belong to."""
        self._made: dict[Hashable, Any] = {}
        self._nodes = 0

    def once(self, key: Hashable, make: Any) -> Any:
        """What ``make()`` gave when it was first asked for under `key`: siblings share what they do to their input."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def node(self, operator: str, inputs: Sequence[Any], domain: str = "", **attributes: Any) -> onnx_ir.Value:
        """The output of a new node; `inputs` are values, None, or numbers, which become tensors."""
        import onnx_ir

        values = [self.number(each) if isinstance(each, float | int) else each for each in inputs]
        self._nodes += 1
        name = f"{self.prefix}/{operator}_{self._nodes}"
        made = onnx_ir.node(operator, values, attributes or None, domain=domain, name=name)
        made.outputs[0].name = name
        assert self.before is not None
        self.graph.insert_before(self.before, made)
        if domain:
            self.graph.opset_imports[domain] = 1
        return made.outputs[0]

    def tensor(self, name: str, values: torch.Tensor | np.ndarray[Any, Any]) -> onnx_ir.Value:
        """A tensor of the file, stored once for each name."""
        return self.once(("tensor", name), lambda: self._stored(name, values))

    def number(self, number: float) -> onnx_ir.Value:
        """A float32 scalar."""
        return self.tensor(f"float_{float(number)!r}", np.array(number, np.float32))

    def indices(self, *numbers: int) -> onnx_ir.Value:
        """An int64 vector, as shapes and axes are given."""
        return self.tensor("indices_" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def reshaped(self, value: onnx_ir.Value, kept: int, *sizes: int) -> onnx_ir.Value:
        """`value` with its first `kept` axes as they are, and the rest as `sizes` says."""
        return self.node("Reshape", [value, self.indices(*[0] * kept, *sizes)])

    def cast(self, value: onnx_ir.Value, dtype: str) -> onnx_ir.Value:
        """`value` in the dtype of this name, such as ``"FLOAT"``."""
        import onnx_ir

        return self.node("Cast", [value], to=int(onnx_ir.DataType[dtype]))

    def rotated(self, value: onnx_ir.Value, rank: int, width: int, size: int | None) -> onnx_ir.Value:
        """``[..., width]`` with each block of `size` numbers multiplied by a Hadamard matrix that all share."""
        if size is None:
            return value
        return self.once((value.name, "rotated", size), lambda: self._rotated(value, rank, width, size))

    def _rotated(self, value: onnx_ir.Value, rank: int, width: int, size: int) -> onnx_ir.Value:
        matrix = self.tensor(f"hadamard_{size}", rotate(torch.eye(size), size))
        blocks = self.reshaped(value, rank - 1, width // size, size)
        return self.reshaped(self.node("MatMul", [blocks, matrix]), rank - 1, width)

    def _stored(self, name: str, values: torch.Tensor | np.ndarray[Any, Any]) -> onnx_ir.Value:
        import onnx_ir

        tensor = onnx_ir.tensor(values.contiguous() if isinstance(values, torch.Tensor) else values, name=name)
        value = onnx_ir.Value(
            name=name,
            shape=onnx_ir.Shape(list(values.shape)),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value
