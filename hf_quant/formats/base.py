"""What a number format is: the contract that every entry with scales in ``config.formats.FORMATS`` fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hf_quant.config.scheme import TensorScheme

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

TensorFacts = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name to shape and dtype."""

Tensors = Mapping[str, torch.Tensor]
"""Tensors that a weight is stored as, by the names of its format and in their order."""

Grid = tuple[torch.Tensor, torch.Tensor | None]
"""float32 scale and zero point, as `Format.weight_grid` returns them."""


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix ``[rows, width]``, without its numbers.

    Args:
        scheme: Format of the numbers; the group size is settled and divides the width.
        rows: Output channels, or rows of an embedding.
        width: Numbers in a row.
    """

    scheme: TensorScheme
    rows: int
    width: int

    @property
    def group_size(self) -> int:
        """Numbers of a row that share a scale; all of them where scales are per channel or per tensor."""
        return self.scheme.group_size or self.width

    @property
    def groups(self) -> int:
        """Groups in a row."""
        return self.width // self.group_size

    @property
    def scale_shape(self) -> tuple[int, int]:
        """Shape of the scales, and of the zero points."""
        return (1, 1) if self.scheme.granularity == "tensor" else (self.rows, self.groups)


class Format(ABC):
    """Numbers as codes: of which tensors a weight consists, and how numbers are rounded.

    Rounding is to a *grid*, a float32 scale and perhaps a zero point that numbers share: a number is
    ``level * scale``, with one level for each code. Scales, like everything that broadcasts, have a last dimension of
    1 or of the numbers. What is not about grids is about tensors by their names, and may use others than a scale. One
    of them is called ``codes``, and is stored under the name of the parameter itself; kernels may replace it.
    """

    scale_dtype: torch.dtype
    """Dtype that scales are stored in, and rounded to."""
    highest: float
    """Largest magnitude of a level, counted from the lowest one where there are zero points."""
    span: tuple[float, float]
    """Lowest and highest `position` that is not clipped, half a step beyond the outermost levels."""

    has_signed_scales: bool = False
    """Whether scales of weights may be negative."""

    @classmethod
    @abstractmethod
    def of(cls, scheme: TensorScheme) -> Self:
        """The format that `scheme` names."""

    @abstractmethod
    def weight_grid(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """Grid for weights in ``[low, high]``, float32 of one shape, which is that of scale and zero point.

        `scale_dtype` holds the scale exactly, and every level decodes to a finite number. Where a bound is NaN or
        infinite, so is the scale, or what it decodes to.
        """

    @abstractmethod
    def position(self, steps: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Where ``number / scale`` lies among the codes, in place, as `span` and `snap` take it."""

    @abstractmethod
    def snap(self, position: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Nearest level of a position, in place; NaN stays NaN."""

    def nearest(self, steps: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Nearest level of ``number / scale``, in place."""
        return self.snap(self.position(steps, zero_point), zero_point)

    @abstractmethod
    def codes_of(self, levels: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Integer codes of levels that `nearest` gave."""

    @abstractmethod
    def decode(self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """float32 numbers that `codes` stand for."""

    def encode(self, real: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """Nearest codes; `scale` and `zero_point` broadcast against `real`, which is float32.

        Reals are multiplied by the scale's reciprocal, which is rounded to float32, as kernels do.
        """
        return self.codes_of(self.nearest(real * scale.reciprocal(), zero_point), zero_point)

    @abstractmethod
    def tensors(self, matrix: Matrix) -> TensorFacts:
        """Name, shape and dtype of the tensors that `matrix` is stored as."""

    @abstractmethod
    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Pack integer codes of some rows, ``[rows, width]``, as they are stored."""

    @abstractmethod
    def stored(self, packed: torch.Tensor, grid: Grid, name: str) -> dict[str, torch.Tensor]:
        """The tensors that a whole matrix is stored as, by name.

        Args:
            packed: Packed codes of all rows, from `pack`.
            grid: Scale and zero point, each of the shape `Matrix.scale_shape`.
            name: Name of the weight, for error messages.

        Raises:
            WeightError: A scale leaves the range of its dtype.
        """

    @abstractmethod
    def decode_rows(self, tensors: Tensors, matrix: Matrix, rows: slice) -> torch.Tensor:
        """float32 numbers of consecutive rows, ``[rows, width]``, rotated where the scheme says so."""

    @abstractmethod
    def look_up(self, tensors: Tensors, matrix: Matrix, rows: torch.Tensor) -> torch.Tensor:
        """float32 numbers of the rows of these indices, int64 or int32: ``[*rows.shape, width]``."""

    def by_row(self, tensors: Tensors, matrix: Matrix) -> dict[str, torch.Tensor]:
        """Tensors of a weight that can be cut and joined along its rows, dimension 0; without what all rows share."""
        return {name: tensor for name, tensor in tensors.items() if tensor.ndim and len(tensor) == matrix.rows}

    def of_rows(self, by_row: Tensors, whole: Tensors) -> dict[str, torch.Tensor]:
        """The tensors that some rows of a matrix are stored as: the inverse of `by_row`.

        Args:
            by_row: Tensors of these rows, from `by_row`.
            whole: Stored tensors of the matrix that the rows are of, for what all rows share.
        """
        return {name: by_row.get(name, tensor) for name, tensor in whole.items()}

    @abstractmethod
    def check(self, tensors: Tensors, matrix: Matrix, name: str) -> None:
        """Raise CheckpointError if tensors of the right shapes and dtypes hold what no quantizer writes.

        Args:
            tensors: Tensors from a checkpoint, by the names of the format.
            matrix: Scheme and sizes that the tensors should be of.
            name: Name of the parameter, for messages.
        """
