"""Codes and scales as they lie in a written file, read as ONNX says they are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_quant.export.onnx.blocks import Integers, container, integers
from hf_quant.formats.base import Matrix
from hf_quant.modules.swap import quantized_modules

_Array = np.ndarray[Any, Any]


def codes_that_differ(model: nn.Module, path: Path) -> list[str]:
    """Names of quantized modules whose codes, scales, zero points or input grids in a file are others than in memory.

    Args:
        model: Quantized model.
        path: The file, whose tensors may lie in another beside it.
    """
    file = WrittenFile(path)
    # One that is never called, such as the table that an encoder and a decoder share, is checked where those are.
    called = ((name, module) for name, module in quantized_modules(model) if name in file.nodes)
    return [name for name, module in called if not _is_same(file, name, module)]


def _is_same(file: WrittenFile, name: str, module: Any) -> bool:
    spec = module.spec
    expected = integers(module.neutral(), spec.matrix)
    found = file.integers(name, spec.matrix)
    pairs: list[tuple[torch.Tensor | None, torch.Tensor]] = [
        (found.codes, expected.codes),
        (found.scale, expected.scale),
    ]
    zeros = torch.zeros(expected.scale.shape, dtype=torch.int8) if expected.zero_point is None else expected.zero_point
    pairs.append((found.zero_point, zeros))
    if module.input_scale is not None:
        pairs.append((torch.tensor(file.tensors[f"{name}.input_scale"]).reshape(1), module.input_scale))
    return all(mine is not None and torch.equal(_spread(mine, other), other) for mine, other in pairs)


def _spread(found: torch.Tensor | None, expected: torch.Tensor) -> Any:
    """Values of blocks as values of the groups that they are parts of; None where those of a group differ."""
    if found is None or found.shape == expected.shape or found.shape[-1] % expected.shape[-1]:
        return found
    of_groups = found.unflatten(-1, (expected.shape[-1], -1))
    return of_groups[..., 0] if bool((of_groups == of_groups[..., :1]).all()) else found


class WrittenFile:
    """The tensors of a file, and the nodes of each module.

    Args:
        path: As `codes_that_differ` takes it.
    """

    def __init__(self, path: Path):
        import onnx

        graph = onnx.load(path).graph
        self.tensors: dict[str, _Array] = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.nodes: dict[str, list[Any]] = {}
        for node in graph.node:
            self.nodes.setdefault(node.name.partition("/")[0], []).append(node)

    def integers(self, name: str, matrix: Matrix) -> Integers:
        """The weight of a module, with a scale and a zero point for each block."""
        rows, width, bits = matrix.rows, matrix.width, container(matrix.scheme.bits)
        for node in self._computing(name):
            weight = self._constant(node.input[1 if node.op_type.startswith("MatMul") else 0])
            if node.op_type == "MatMulNBits":
                assert weight is not None
                bits = next(each.i for each in node.attribute if each.name == "bits")
                scale = self._given(node.input[2]).reshape(rows, -1)
                packed = self._given(node.input[3]) if len(node.input) > 3 else None
                zero = None if packed is None else _unpacked(packed.reshape(rows, -1), bits, scale.shape[1])
                return _integers(_unpacked(weight.reshape(rows, -1), bits, width), scale, zero)
            if node.op_type == "MatMulInteger" and weight is not None:
                return _of_channels(weight.T, self.tensors[f"{name}.scale"], self._given(node.input[3]))
            if node.op_type == "DequantizeLinear" and weight is not None:
                return _of_channels(weight, self._given(node.input[1]), self._given(node.input[2]))
            if node.op_type == "Gather" and weight is not None and weight.dtype == np.uint8:
                weight = weight.reshape(rows, -1)
                zero_point = self.tensors.get(f"{name}.zero_point")
                zeros = None if zero_point is None else zero_point.astype(np.int16) - 2 ** (bits - 1)
                return _integers(_unpacked(weight, bits, width), self.tensors[f"{name}.scale"], zeros)
        raise KeyError(name)

    def _computing(self, name: str) -> list[Any]:
        """The nodes of a module, and those that decode a weight that it shares."""
        found = list(self.nodes[name])
        for node in found:
            made = (self.makers.get(each) for each in node.input)
            found.extend(
                each for each in made if each is not None and each.op_type in ("DequantizeLinear", "Transpose")
            )
        return found

    def _given(self, name: str) -> _Array:
        found = self._constant(name)
        assert found is not None
        return found

    def _constant(self, name: str) -> _Array | None:
        """A tensor of the file, or one laid out anew by nodes; None where it is computed of inputs."""
        if name in self.tensors:
            return self.tensors[name]
        maker = self.makers.get(name)
        if maker is None or maker.op_type not in ("Reshape", "Transpose"):
            return None
        found = self._constant(maker.input[0])
        if found is None or maker.op_type == "Reshape":
            return found  # in the same order, and taken by rows
        return found.T


def _of_channels(weight: _Array, scale: _Array, zero_point: _Array) -> Integers:
    """Codes ``[rows, width]``, of bytes with a sign or counted from 0, with a scale for each row."""
    shift = 128 if weight.dtype == np.uint8 else 0
    zeros = np.broadcast_to(zero_point.astype(np.int16) - shift, scale.shape)
    return _integers(weight.astype(np.int16) - shift, scale[:, None], zeros[:, None])


def _unpacked(packed: _Array, bits: int, length: int) -> _Array:
    """uint8 ``[rows, bytes]``, lowest bits first, to codes ``[rows, length]`` of both signs."""
    fields = np.unpackbits(packed, axis=-1, bitorder="little").reshape(len(packed), -1, bits).astype(np.int16)
    return ((fields << np.arange(bits, dtype=np.int16)).sum(-1) - 2 ** (bits - 1))[:, :length]


def _integers(codes: _Array, scale: _Array, zero_point: _Array | None) -> Integers:
    zeros = np.zeros(scale.shape) if zero_point is None else zero_point
    as_int8 = [torch.from_numpy(np.ascontiguousarray(each).astype(np.int8)) for each in (codes, zeros)]
    return Integers(as_int8[0], torch.from_numpy(np.array(scale)), as_int8[1])
