"""Weights that are rounded, in training, to the numbers that they will be stored as."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.algorithms.grids import Clipping
from hf_quant.algorithms.rtn import checked_range, rounded, rows_of
from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import format_of
from hf_quant.formats.zero_points import unpack_zero_points
from hf_quant.qat.fake_quantize import LSQ, STRAIGHT, FakeQuantize
from hf_quant.qat.learned_grid import LearnedGrid
from hf_quant.qat.options import QATOptions
from hf_quant.qat.straight_through import Rotate


@dataclass(frozen=True)
class WeightSample:
    """Some numbers of a weight on its grid.

    Args:
        codes: Integer codes of the format that training rounds to, ``[groups, group_size]``.
        scale: Mean magnitude of the scales, float32 ``[]``.
        clipped: Share of numbers that lie beyond the last code on either side, float32 ``[]``.
        error: Norm of the rounding error, relative to the norm of the numbers, float32 ``[]``.
    """

    codes: Tensor
    scale: Tensor
    clipped: Tensor
    error: Tensor


class WeightQuantizer(nn.Module):
    """Rounds rows of a weight ``[rows, width]`` to the numbers that inference will have.

    `bits` says, also in a checkpoint, what the learned grid is for. Where that is not what the scheme asks for in the
    end, as in a warm-up in float or with more bits, `solved` takes the grid from the weight.

    Args:
        scheme: Format of the weight, with scales; the group size is settled.
        rows: Rows of the weight.
        width: Numbers in a row.
        options: How the grid is found.
        device: Device of the parameters.
    """

    bits: Tensor

    def __init__(
        self, scheme: TensorScheme, rows: int, width: int, options: QATOptions, device: torch.device | None = None
    ):
        super().__init__()
        self.scheme = scheme
        self.current = scheme
        self.options = options
        self.group_size = scheme.group_size or width
        self.enabled = True
        """Whether training rounds; `solved` always does."""
        per_tensor = scheme.granularity == "tensor"
        shape = (1, 1) if per_tensor else (rows, width // self.group_size)
        numbers = rows * width if per_tensor else self.group_size
        self.format = format_of(scheme)
        self.grid = (
            LearnedGrid(scheme, shape, numbers, device, self.format.has_signed_scales)
            if options.weights == "lsq"
            else None
        )
        self.register_buffer("bits", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def initialise(self, matrix: Tensor, name: str, bits: int | None = None) -> None:
        """Set the grid from a float weight.

        Args:
            matrix: Float weight ``[rows, width]``.
            name: Name of the weight, for error messages.
            bits: Bits to train with from now on; None: the bits of the scheme.

        Raises:
            WeightError: The weight holds NaN or Inf.
        """
        self.use_bits(bits or self.scheme.bits)
        if self.grid is None:
            checked_range(matrix.flatten(), 0, name)
        else:
            found = rounded(matrix, self.current, name, self._clipping())
            self.start_from(self.current, found["scale"], found.get("zero_point"))
        self.bits.fill_(self.current.bits)

    def start_from(self, scheme: TensorScheme, scale: Tensor, zero_point: Tensor | None) -> None:
        """Set the grid from that of a quantized weight, as stored: scales, and zero points in packed int32 words."""
        assert self.grid is not None
        zeros = None
        if zero_point is not None:
            zeros = unpack_zero_points(zero_point, scheme.bits, (scale.shape[0], scale.shape[1]))
        self.grid.initialise(scheme, scale, zeros)

    def use_bits(self, bits: int) -> None:
        """Round to codes of `bits` bits from now on, on the grid that there is."""
        if bits != self.current.bits:
            self.current = replace(self.scheme, bits=bits)
            self.format = format_of(self.current)
        if self.grid is not None:
            self.grid.use(self.current)

    def forward(self, rows: Tensor, index: Tensor | None = None, whole: Tensor | None = None) -> Tensor:
        """Rows rounded to their grid, ``[n, width]`` in float32, rotated where the scheme says so.

        Args:
            rows: Floats ``[n, width]``: the weight, or the rows of it that were looked up.
            index: Indices of these rows in the weight, int64 ``[n]``; None: all rows.
            whole: Whole weight ``[rows, width]``, where `rows` are only some of it.
        """
        rows = self.rotated(rows)
        if not self.enabled:
            return rows
        scale, zero_point = self._grid(rows, index, whole)
        gradient, factor = (STRAIGHT, 1.0) if self.grid is None else (LSQ, self.grid.gradient_scale)
        grouped = rows.reshape(-1, self.group_size)
        return FakeQuantize.apply(grouped, scale, zero_point, self.format, gradient, factor).view(rows.shape)

    @torch.no_grad()
    def sample(self, matrix: Tensor, numbers: int) -> WeightSample:
        """How some numbers of a weight lie on the grid of training; `numbers` is about how many, of its first rows."""
        count = max(1, min(matrix.shape[0], numbers // matrix.shape[1]))
        rows = self.rotated(matrix[:count])
        scale, zero_point = self._grid(rows, torch.arange(count, device=matrix.device), matrix)
        format = self.format
        grouped = rows.reshape(-1, self.group_size)
        position = format.position(grouped * scale.reciprocal(), zero_point)
        clipped = (position < format.span[0]) | (position > format.span[1])
        codes = format.encode(grouped, scale, zero_point)
        error = (format.decode(codes, scale, zero_point) - grouped).norm() / grouped.norm().clamp(min=1e-30)
        return WeightSample(codes, scale.abs().mean(), clipped.float().mean(), error)

    def rotated(self, rows: Tensor) -> Tensor:
        """Rows in float32, rotated where the scheme says so."""
        rotation = self.scheme.rotation
        return rows.to(torch.float32) if rotation is None else Rotate.apply(rows, rotation)

    @torch.no_grad()
    def solved(self, matrix: Tensor, name: str) -> QuantizedWeight:
        """The weight as it would be stored now: with the bits of the scheme.

        Raises:
            WeightError: The weight holds NaN or Inf.
        """
        if self.grid is None:
            return rounded(matrix, self.scheme, name)
        if int(self.bits) != self.scheme.bits:
            return rounded(matrix, self.scheme, name, self._clipping())
        self.use_bits(self.scheme.bits)
        format = self.format
        scale, zero = self.grid()
        rows = rows_of(matrix, self.scheme).unflatten(-1, (-1, self.group_size))
        checked_range(rows, -1, name)
        codes = format.encode(rows, scale[..., None], None if zero is None else zero[..., None])
        return format.stored(format.pack(codes.flatten(-2)), (scale, zero), name)

    def _grid(self, rows: Tensor, index: Tensor | None, whole: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of float rows: ``[n * groups, 1]``, or ``[1, 1]`` per tensor."""
        if self.grid is None:
            scale, zero_point = self._extremes(rows, whole)
        else:
            scale, zero_point = self.grid()
            if index is not None and scale.shape != (1, 1):
                scale = nn.functional.embedding(index, scale)
                zero_point = None if zero_point is None else nn.functional.embedding(index, zero_point)
        return scale.reshape(-1, 1), None if zero_point is None else zero_point.reshape(-1, 1)

    def _clipping(self) -> Clipping | None:
        return Clipping() if self.options.initial == "mse" else None

    def _extremes(self, rows: Tensor, whole: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            if self.scheme.granularity == "tensor":
                low, high = torch.aminmax(rows if whole is None else rows_of(whole, self.scheme))
                low, high = low.view(1, 1), high.view(1, 1)
            else:
                # `aminmax` along a dimension is several times as slow as both of these.
                grouped = rows.unflatten(-1, (-1, self.group_size))
                low, high = grouped.amin(-1), grouped.amax(-1)
            scale, zero_point = self.format.weight_grid(low, high)
        return scale, None if zero_point is None else zero_point.to(torch.float32)
