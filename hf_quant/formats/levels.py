"""Numbers on a fixed table of levels, which need not be evenly spaced: ``real = levels[code] * scale``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from hf_quant.errors import CheckpointError, ConfigError
from hf_quant.formats.base import Grid, Matrix, Tensors
from hf_quant.formats.coded import CodedFormat
from hf_quant.formats.packing import unpack
from hf_quant.formats.scales import TINY, as_stored, capped


@dataclass(frozen=True)
class LevelsFormat(CodedFormat):
    """Codes as places in a table of levels; the scale makes the number farthest from zero the outermost level.

    A number halfway between two levels goes to the lower one.

    Symmetric only. The lowest level has code ``-2 ** (bits - 1)``, and those after it follow.

    Raises:
        ConfigError: `levels` does not ascend, is not finite, lacks zero, or is longer than `bits` can say.
    """

    levels: ClassVar[tuple[float, ...]]
    """The table of levels, ascending; each is rounded to float32."""

    def __post_init__(self) -> None:
        levels = self.levels
        ascend = all(low < high for low, high in pairwise(levels))
        if not 2 <= len(levels) <= 2**self.bits or not ascend or not all(map(math.isfinite, levels)) or 0 not in levels:
            raise ConfigError(
                f"levels of {type(self).__name__} are 2 to {2**self.bits} finite numbers that ascend, zero among them, "
                f"not {levels}"
            )
        if not self.symmetric:
            raise ConfigError(f"{type(self).__name__} has no zero points: leave symmetric true")

    @property
    def highest(self) -> float:  # type: ignore[override]
        """Largest magnitude of a level."""
        return max(-self.levels[0], self.levels[-1])

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """Lowest and highest position that is not clipped: half the way to the next level within, beyond the last."""
        first, second, *_ = self.levels
        *_, before, last = self.levels
        return first - (second - first) / 2, last + (last - before) / 2

    def weight_grid(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """Scale for weights in ``[low, high]``, without zero point; see `Format`."""
        least, most = abs(self.levels[0]), abs(self.levels[-1])
        # A side without levels holds nothing but zero.
        sides = [side / level for side, level in ((low.neg().clamp(min=0), least), (high.clamp(min=0), most)) if level]
        size = sides[0] if len(sides) == 1 else torch.maximum(*sides)
        return as_stored(capped(size.clamp(min=TINY), max(self.highest, 1.0), self.scale_dtype), self.scale_dtype), None

    def position(self, steps: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """``number / scale`` as it is, which `snap` looks up in the table."""
        return steps

    def snap(self, position: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Nearest level of a position, in place; NaN stays NaN."""
        table = self._table(position)
        nearest = table[self._places(position, table)]
        return position.copy_(torch.where(position.isnan(), position, nearest))

    def codes_of(self, levels: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Integer codes of levels: their places in the table, counted from ``-2 ** (bits - 1)``."""
        return (self._places(levels, self._table(levels)) - 2 ** (self.bits - 1)).to(self.dtype)

    def decode(self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """float32 numbers that codes stand for; see `Format`."""
        places = codes.to(torch.int32) + 2 ** (self.bits - 1)
        return self._table(scale).to(torch.float32)[places].mul_(scale)

    def check(self, tensors: Tensors, matrix: Matrix, name: str) -> None:
        """Raise CheckpointError for what no quantizer writes, codes beyond the table included."""
        super().check(tensors, matrix, name)
        most = len(self.levels) - 1 - 2 ** (self.bits - 1)
        if len(self.levels) == 2**self.bits:
            return
        found = unpack(tensors["codes"], self.bits, matrix.width)
        if found.numel() and int(found.max()) > most:
            raise CheckpointError(
                f"{name} holds a code above {most}, but the table of {matrix.scheme.format} ends there: save the "
                "checkpoint again"
            )

    def _table(self, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.levels, dtype=torch.float32, device=like.device).to(like.dtype)

    @staticmethod
    def _places(real: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        # Contiguous: torch would copy anyway, and warn.
        return torch.bucketize(real.contiguous(), (table[1:] + table[:-1]) / 2)
