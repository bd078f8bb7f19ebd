"""Filters of a convolution whose channels are in groups: rows of a matrix, each of which sees those of its group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Steps = Sequence[tuple[int, int, int]]
"""Size of a filter, step from output to output and from number to number within a patch, of each dimension."""


class Filters(nn.Module):
    """Filters ``[out, positions * in / groups]``, channels innermost, of a convolution that holds them as a child.

    Args:
        rows: Number of filters.
        kernel_size: Size of a filter.
        channels: Channels of the input in a group.
    """

    weight: nn.Parameter

    def __init__(self, rows: int, kernel_size: tuple[int, ...], channels: int):
        super().__init__()
        self.kernel_size, self.channels = kernel_size, channels
        self.weight = nn.Parameter(torch.empty(rows, channels * torch.Size(kernel_size).numel()))

    def forward(self, input: torch.Tensor, steps: Steps, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution of a padded batch: ``[batch, in, *space] -> [batch, out, *outputs]``."""
        return convolved(input, self.weight, steps, bias)

    def extra_repr(self) -> str:
        """Shape of the matrix."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, kernel_size={self.kernel_size}"


def convolved(input: torch.Tensor, weight: torch.Tensor, steps: Steps, bias: torch.Tensor | None) -> torch.Tensor:
    """A convolution without padding, with filters as rows; as many groups as they leave of the channels."""
    kernel, stride, dilation = map(list, zip(*steps, strict=True))
    filters = weight.to(input.dtype).unflatten(1, (*kernel, -1)).movedim(-1, 1)
    filters = filters.clone(memory_format=torch.contiguous_format)  # else outputs may lie as filters do
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    return convolve(input, filters, bias, stride, 0, dilation, input.shape[1] // filters.shape[1])


def by_group(input: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Rows of numbers that share a dynamic grid, those of an item and group: ``[batch * groups, numbers]``."""
    groups = input.shape[1] // filters.channels
    return input.reshape(len(input) * groups, input[:1].numel() // groups if len(input) else 1)


def patches(input: torch.Tensor, steps: Steps) -> torch.Tensor:
    """What each output of a convolution sees, channels innermost.

    Args:
        input: Padded, ``[batch, channels, *space]``.
        steps: Size of a filter and both steps of each dimension.

    Returns:
        ``[batch, *outputs, prod(kernel) * channels]``.

    Raises:
        RuntimeError: The input is smaller than a patch.
    """
    spans = [gap * (kernel - 1) + 1 for kernel, _, gap in steps]
    if any(size < span for size, span in zip(input.shape[2:], spans, strict=True)):
        raise RuntimeError(f"an input of {list(input.shape[2:])}, padding included, is smaller than a patch of {spans}")
    for dimension, (kernel, stride, gap) in enumerate(steps, 2):
        input = input.unfold(dimension, gap * (kernel - 1) + 1, stride)[..., ::gap]
    return input.movedim(1, -1).flatten(-1 - len(steps))


def rows_read(module: nn.Module, args: Sequence[Any]) -> Any:
    """What the rows of a module's weight are multiplied with, ``[..., width]``, or the ids of rows that are looked up.

    Args:
        module: Float or quantized, called with `args`.
        args: Of a filter, the input is cut into patches, a row for each output and group.
    """
    if not isinstance(module, Filters) or not args:
        return args[0] if args else None
    input, steps = args[:2]
    groups = input.unflatten(1, (-1, module.channels)).transpose(0, 1).flatten(0, 1)
    return patches(groups, steps)
