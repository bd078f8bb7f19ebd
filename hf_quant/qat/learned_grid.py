"""A grid whose scale and offset are parameters (LSQ, arXiv:1902.08153; LSQ+, arXiv:2004.09576)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import format_of
from hf_quant.formats.scales import least
from hf_quant.qat.sharded import copy_whole, is_distributed, whole
from hf_quant.qat.straight_through import StoreAs, ZeroPoint

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


class LearnedGrid(nn.Module):
    """Learned scale and, for asymmetric schemes, learned offset: the real number that code 0 stands for.

    The grid that numbers are rounded to is the one that will be stored: the scale as its dtype holds it, and the zero
    point ``round(-offset / scale)``, which is a code. An offset in place of a zero point keeps still while the scale
    moves, and has gradients of the size of numbers. Both start as NaN: `initialise` sets them from statistics.

    Args:
        scheme: Format with scales, which numbers are rounded to.
        shape: Shape of the scale and of the offset: ``[rows, groups]``, ``[1, 1]`` per tensor.
        numbers: Numbers that share a scale; gradients are multiplied with ``1 / sqrt(numbers * highest level)``.
            Levels of asymmetric schemes are counted from the lowest.
        device: Device of the parameters.
        signed: Whether scales may be negative.
    """

    scale: nn.Parameter
    offset: nn.Parameter | None
    initialised: Tensor
    """Whether there is a grid yet; a buffer, so that checkpoints say so too."""

    def __init__(
        self,
        scheme: TensorScheme,
        shape: tuple[int, int],
        numbers: int,
        device: torch.device | None = None,
        signed: bool = False,
    ):
        super().__init__()
        self.signed = signed
        self.use(scheme)
        self.numbers = numbers
        self.idle = False
        """Whether the grid takes no part in learning for now, though its parameters ask for gradients."""
        self.scale = nn.Parameter(torch.full(shape, math.nan, device=device))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool, device=device))
        if scheme.symmetric:
            self.register_parameter("offset", None)
        else:
            self.offset = nn.Parameter(torch.full(shape, math.nan, device=device))

    def use(self, scheme: TensorScheme) -> None:
        """Round to the format of `scheme` from now on."""
        self.scheme, self.format = scheme, format_of(scheme)

    @property
    def is_initialised(self) -> bool:
        """Whether scale and offset were set from statistics yet."""
        return bool(self.initialised)

    @property
    def gradient_scale(self) -> float:
        """Factor that gradients of scale and offset are multiplied with."""
        return 1 / math.sqrt(self.numbers * self.format.highest)

    @torch.no_grad()
    def initialise(self, scheme: TensorScheme, scale: Tensor, zero_point: Tensor | None) -> None:
        """Set scale and offset from a scale and zero point of `scheme`, which may have other bits than before.

        Rows of zeros have the smallest scale that there is, from which no learning rate leads to those of other rows:
        they start in the middle of these.
        """
        self.use(scheme)
        self.initialised.fill_(True)
        scale = scale.to(torch.float32)
        of_zeros = scale.abs() <= 2 * least(self.format.scale_dtype)
        if bool(of_zeros.any()):
            others = scale[~of_zeros].abs()
            scale = torch.where(of_zeros, others.median() if others.numel() else 1 / self.numbers, scale)
        copy_whole(self.scale, scale)
        if self.offset is not None:
            assert zero_point is not None
            copy_whole(self.offset, torch.where(of_zeros, 0.0, -zero_point.to(torch.float32) * scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Casting a model must not cast grids: a scale may be smaller than float16 can say.
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype else moved

        return super()._apply(keep_dtype, recurse)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The grid to round to, with gradients: float32 scale, and zero point of whole numbers in float32, or None."""
        scale = StoreAs.apply(self._learned(self.scale), self.format.scale_dtype)
        if self.offset is None:
            return scale, None
        low, high = self.format.span
        return scale, ZeroPoint.apply(self._learned(self.offset), scale, low + 0.5, high - 0.5)

    def _learned(self, parameter: nn.Parameter) -> Tensor:
        tensor = whole(parameter)
        return tensor.detach().float() if self.idle else tensor.float()

    def let_learn(self, learns: bool, used: bool) -> None:
        """Set whether the grid is learned from now on, and whether anything is rounded to it.

        In several processes parameters go on asking for gradients, which are zero then (`Idle`): what wraps a model
        there fixes at the start which gradients it waits for.
        """
        if is_distributed():
            self.idle = not (learns and used)
        else:
            self.requires_grad_(learns)

    def idle_parameters(self) -> list[nn.Parameter]:
        """Parameters of an idle grid, whose gradients are to be zero; empty while it learns."""
        return [parameter for parameter in self.parameters() if self.idle and parameter.requires_grad]
