"""Filters on integer codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_quant.config.scheme import Scheme
from hf_quant.kernels.base import LinearOperands, LinearSpec
from hf_quant.kernels.native.taps import Taps, taps_of
from hf_quant.kernels.weights import fake_quantize_input
from hf_quant.modules.embedding import Table
from hf_quant.modules.filters import Filters, Steps, by_group, convolved


class QuantizedFilters(Table, Filters):
    """`Filters` on integer codes. Inputs are quantized on one static grid, or on one for each item and group.

    Args:
        rows: Number of filters.
        kernel_size: Size of a filter.
        channels: Channels of the input in a group.
        scheme: Formats of weight and input.
        tied: The weight belongs to another module.
        device: Where the tensors are made.
        dtype: Dtype of the float weight.
    """

    float_class = Filters
    taps: Taps | None = None
    """What the native convolution takes; None where it cannot compute this."""

    def __init__(
        self,
        rows: int,
        kernel_size: tuple[int, ...],
        channels: int,
        scheme: Scheme,
        tied: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        nn.Module.__init__(self)
        self.kernel_size, self.channels = kernel_size, channels
        self.setup(scheme, channels * torch.Size(kernel_size).numel(), rows, tied, device, dtype)

    def forward(self, input: torch.Tensor, steps: Steps, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution of a padded batch: ``[batch, in, *space] -> [batch, out, *outputs]``."""
        index = torch.arange(self.spec.out_features, device=self.weight.device)
        return convolved(self.rounded(input), self.rows(index), steps, bias)

    def rounded(self, input: torch.Tensor) -> torch.Tensor:
        """An input as its codes stand for it; gradients pass straight through."""
        if self.spec.scheme.input is None or not input.numel():
            return input
        with torch.no_grad():
            rows = by_group(input, self)
            grid = LinearOperands({}, None, self.input_scale, self.input_zero_point)
            rounded = fake_quantize_input(rows, grid, _unrotated(self.spec)).view(input.shape).to(input.dtype)
        # A difference would lose digits of numbers far outside the grid.
        return rounded + (input - input.detach()) if torch.is_grad_enabled() and input.requires_grad else rounded

    def prepare(self) -> None:
        """Lay the weight out for the device at hand; a second call does nothing."""
        if self.is_current:
            return
        super().prepare()
        if self.is_current and self.weight.device.type == "cpu":
            grid = replace(self.operands(), weight=self.neutral())
            self.__dict__["taps"] = taps_of(grid, self.spec, self.kernel_size)

    def forget(self) -> None:
        """Undo `prepare`: what was made of the weight is of no use any more."""
        self.__dict__.pop("taps", None)
        super().forget()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("taps", None)
        return state

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{self.spec.out_features}, {self.spec.in_features}, scheme={self.spec.scheme}"


def _unrotated(spec: LinearSpec) -> LinearSpec:
    # Rows of the weight are turned back when they are looked up.
    weight = replace(spec.scheme.weight, rotation=None)
    return LinearSpec(replace(spec.scheme, weight=weight), spec.in_features, spec.out_features)
