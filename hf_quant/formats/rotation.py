"""Rotation of a vector in blocks by a Hadamard matrix, which spreads outliers over their block.

With ``H`` orthonormal and symmetric, ``x @ W.T == (x @ H) @ (W @ H).T``: rotating the rows of a weight before it is
quantized, and its inputs before they are, changes nothing but what the rounding sees (QuaRot, arXiv:2404.00456, whose
online rotations are applied here to every input, in blocks and without data).
"""

from __future__ import annotations

import torch


def rotate(real: torch.Tensor, size: int) -> torch.Tensor:
    """`real`, ``[..., n]``, with each block of `size` numbers times the orthonormal Hadamard matrix; float32.

    It is its own inverse. The butterfly adds neighbours first and halves last, as the native kernels do, so that both
    round alike.

    Args:
        real: Floats; `size` divides their last dimension.
        size: A power of two.
    """
    blocks = real.to(torch.float32).unflatten(-1, (-1, size))
    step = 1
    while step < size:
        first, second = blocks.unflatten(-1, (-1, 2, step)).unbind(-2)
        blocks = torch.stack([first + second, first - second], -2).flatten(-3)
        step *= 2
    # The factor as float32 arithmetic gives it.
    factor = torch.tensor(size, dtype=torch.float32, device="cpu").sqrt().reciprocal().item()
    return (blocks * factor).flatten(-2)
