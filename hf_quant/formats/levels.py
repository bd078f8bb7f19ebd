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
    """The scale makes the number farthest from zero the outermost level; a tie goes to the lower level.

    Symmetric only. The lowest level has code ``-2 ** (bits - 1)``, and those after it follow.

    Raises:
        ConfigError: `levels` does not ascend, is not finite, lacks zero, or is longer than `bits` can say.
    """

    levels: ClassVar[tuple[float, ...]]
    """Ascending; each is rounded to float32."""

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
        """Size of the largest level."""
        return max(-self.levels[0], self.levels[-1])

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """As far beyond the outermost levels as half of the way to the next within."""
        first, second, *_ = self.levels
        *_, before, last = self.levels
        return first - (second - first) / 2, last + (last - before) / 2

    def weight_grid(self, low: torch.Tensor, high: torch.Tensor) -> Grid:
        """See `Format`."""
        least, most = abs(self.levels[0]), abs(self.levels[-1])
        # A side without levels holds nothing but zero.
        sides = [side / level for side, level in ((low.neg().clamp(min=0), least), (high.clamp(min=0), most)) if level]
        size = sides[0] if len(sides) == 1 else torch.maximum(*sides)
        return as_stored(capped(size.clamp(min=TINY), max(self.highest, 1.0), self.scale_dtype), self.scale_dtype), None

    def position(self, steps: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """As it is."""
        return steps

    def snap(self, position: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """The nearest level."""
        table = self._table(position)
        nearest = table[self._places(position, table)]
        return position.copy_(torch.where(position.isnan(), position, nearest))

    def codes_of(self, levels: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        """Their places in the table."""
        return (self._places(levels, self._table(levels)) - 2 ** (self.bits - 1)).to(self.dtype)

    def decode(self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
        """See `Format`."""
        places = codes.to(torch.int32) + 2 ** (self.bits - 1)
        return self._table(scale).to(torch.float32)[places].mul_(scale)

    def check(self, tensors: Tensors, matrix: Matrix, name: str) -> None:
        """As in `CodedFormat`, and no code lies beyond the table."""
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
