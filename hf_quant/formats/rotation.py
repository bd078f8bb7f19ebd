"""Rotation of a vector in blocks by a Hadamard matrix, which spreads outliers over their block.

With ``H`` orthonormal and symmetric, ``x @ W.T == (x @ H) @ (W @ H).T``: rotating the rows of a weight before it is
quantized, and its inputs before they are, changes nothing but what the rounding sees (QuaRot, arXiv:2404.00456, whose
online rotations are applied here to every input, in blocks and without data).
"""

from __future__ import annotations

import torch


def rotate(real: torch.Tensor, size: int) -> torch.Tensor:
    """Multiply each block of `size` numbers of ``[..., n]`` with the orthonormal Hadamard matrix; float32.

    It is its own inverse. The butterfly adds neighbours first and halves last, as the native kernels do, so that both
    round alike.

    Args:
        real: Floats ``[..., n]``; `size` divides ``n``.
        size: Numbers in a block, a power of two.
    """
    # The factor as float32 arithmetic gives it.
    factor = torch.tensor(size, dtype=torch.float32, device="cpu").sqrt().reciprocal().item()
    blocks = real.to(torch.float32).unflatten(-1, (-1, size))
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and real.requires_grad):
        return (_butterfly(blocks, size) * factor).flatten(-2)
    return _in_rows(blocks, size).mul_(factor).flatten(-2)


def _butterfly(blocks: torch.Tensor, size: int) -> torch.Tensor:
    step = 1
    while step < size:
        first, second = blocks.unflatten(-1, (-1, 2, step)).unbind(-2)
        blocks = torch.stack([first + second, first - second], -2).flatten(-3)
        step *= 2
    return blocks


def _in_rows(blocks: torch.Tensor, size: int) -> torch.Tensor:
    """`_butterfly` without gradients, several times as fast: the numbers of a block stand in `size` long rows."""
    # A copy, whatever the layout: it is written to.
    rows = blocks.flatten(0, -2).t().clone(memory_format=torch.contiguous_format)
    others, step = torch.empty_like(rows), 1
    while step < size:
        shape = (size // (2 * step), 2, step, rows.shape[1])
        first, second = rows.view(shape).unbind(1)
        sums, differences = others.view(shape).unbind(1)
        torch.add(first, second, out=sums)
        torch.sub(first, second, out=differences)
        rows, others, step = others, rows, 2 * step
    return rows.t().contiguous().view(blocks.shape)
