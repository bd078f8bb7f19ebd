"""Formats of packed codes with scales: how they are stored, looked up and checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError, WeightError
from hf_quant.formats.base import Format, Grid, Matrix, TensorFacts, Tensors
from hf_quant.formats.packing import code_dtype, pack, padding_is_zero, unpack, words_per_row
from hf_quant.formats.zero_points import pack_zero_points, unpack_zero_points, zero_point_words, zero_points_of_rows


@dataclass(frozen=True)
class CodedFormat(Format):
    """Base of formats that store ``codes``, ``scale`` and, where asymmetric, ``zero_point``; without numerics.

    Args:
        bits: Width of a code.
        symmetric: Whether there are no zero points.
        scale_dtype: Dtype that scales are stored in.
    """

    bits: int
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, scheme: TensorScheme) -> CodedFormat:
        """The format that `scheme` names."""
        return cls(scheme.bits, scheme.symmetric, scale_dtype(scheme))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of unpacked codes and of zero points."""
        return code_dtype(self.bits)

    def tensors(self, matrix: Matrix) -> TensorFacts:
        """Stored tensors of a matrix, by name: int32 words of codes, scales, and int32 words of zero points."""
        facts: TensorFacts = {
            "codes": ((matrix.rows, words_per_row(matrix.width, self.bits)), torch.int32),
            "scale": (matrix.scale_shape, self.scale_dtype),
        }
        if not self.symmetric:
            facts["zero_point"] = ((zero_point_words(matrix.scale_shape, self.bits),), torch.int32)
        return facts

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Pack integer codes ``[rows, width]`` into int32 words ``[rows, words]``."""
        return pack(codes, self.bits)

    def stored(self, packed: torch.Tensor, grid: Grid, name: str) -> dict[str, torch.Tensor]:
        """The tensors that a matrix is stored as; zero points are given as integers of the shape of the scales."""
        scale, zero_point = grid[0].to(self.scale_dtype), grid[1]
        if self.scale_dtype is torch.float16 and not bool(scale.isfinite().all()):
            raise WeightError(f'{name} needs scales that float16 cannot hold: take scale_dtype "float32" or "bfloat16"')
        tensors = {"codes": packed, "scale": scale}
        if zero_point is not None:
            tensors["zero_point"] = pack_zero_points(zero_point.to(self.dtype), self.bits)
        return tensors

    def decode_rows(self, tensors: Tensors, matrix: Matrix, rows: slice) -> torch.Tensor:
        """float32 numbers of consecutive rows, ``[rows, width]``; see `Format`."""
        codes = unpack(tensors["codes"][rows], self.bits, matrix.width)
        # Per tensor there is one scale, whatever is decoded.
        of_scales = slice(None) if matrix.scale_shape != (matrix.rows, matrix.groups) else rows
        zero_point = None
        if not self.symmetric:
            zero_point = unpack_zero_points(tensors["zero_point"], self.bits, matrix.scale_shape, of_scales)
        return self._decoded(codes, tensors["scale"][of_scales], zero_point, matrix)

    def by_row(self, tensors: Tensors, matrix: Matrix) -> dict[str, torch.Tensor]:
        """Tensors that can be cut along rows; see `Format`. Zero points, which are packed as one row, are unpacked."""
        found = super().by_row({name: tensor for name, tensor in tensors.items() if name != "zero_point"}, matrix)
        if "zero_point" in tensors and matrix.scheme.granularity != "tensor":
            found["zero_point"] = unpack_zero_points(tensors["zero_point"], self.bits, matrix.scale_shape)
        return found

    def of_rows(self, by_row: Tensors, whole: Tensors) -> dict[str, torch.Tensor]:
        """The tensors that some rows are stored as: the inverse of `by_row`."""
        found = super().of_rows(by_row, whole)
        if "zero_point" in by_row:
            found["zero_point"] = pack_zero_points(by_row["zero_point"].contiguous(), self.bits)
        return found

    def look_up(self, tensors: Tensors, matrix: Matrix, rows: torch.Tensor) -> torch.Tensor:
        """float32 numbers of gathered rows; see `Format`. Only what belongs to the rows is read."""
        codes = unpack(torch.nn.functional.embedding(rows, tensors["codes"]), self.bits, matrix.width)
        rows = torch.zeros_like(rows) if matrix.scheme.granularity == "tensor" else rows
        zero_point = None
        if not self.symmetric:
            zero_point = zero_points_of_rows(tensors["zero_point"], self.bits, rows, matrix.scale_shape[1])
        return self._decoded(codes, torch.nn.functional.embedding(rows, tensors["scale"]), zero_point, matrix)

    def check(self, tensors: Tensors, matrix: Matrix, name: str) -> None:
        """Raise CheckpointError unless scales are finite and of the right sign, and padding bits are zero."""
        scale, zero_point = tensors["scale"], tensors.get("zero_point")
        signed = self.has_signed_scales
        if not bool((torch.isfinite(scale) & (scale != 0 if signed else scale > 0)).all()):
            kind = "not finite, or zero" if signed else "not finite and positive"
            raise CheckpointError(f"{name}_scale holds values that are {kind}: save it again")
        if zero_point is not None and not padding_is_zero(zero_point, self.bits, scale.numel()):
            raise CheckpointError(f"{name}_zero_point has bits set after its last one: save the checkpoint again")
        if not padding_is_zero(tensors["codes"], self.bits, matrix.width):
            raise CheckpointError(f"{name} has bits set after its last code: save the checkpoint again")

    def _decoded(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, matrix: Matrix
    ) -> torch.Tensor:
        grouped = codes.unflatten(-1, (matrix.groups, matrix.group_size))
        zeros = None if zero_point is None else zero_point[..., None]
        return self.decode(grouped, scale[..., None].to(torch.float32), zeros).flatten(-2)


def scale_dtype(scheme: TensorScheme) -> torch.dtype:
    """Dtype that scales are stored in: those of a weight in groups are many, and bfloat16 keeps them small."""
    if scheme.scale_dtype is not None:
        found: torch.dtype = getattr(torch, scheme.scale_dtype)
        return found
    is_small = scheme.granularity == "group" and scheme.bits <= 8 and not scheme.dynamic
    return torch.bfloat16 if is_small else torch.float32
