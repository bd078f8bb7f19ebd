"""Rotation of a vector in blocks by a Hadamard matrix, which spreads outliers over their block.

With ``H`` orthonormal and symmetric, ``x @ W.T == (x @ H) @ (W @ H).T``: rotating the rows of a weight before it is
quantized, and its inputs before they are, changes nothing but what the rounding sees (QuaRot, arXiv:2404.00456, whose
online rotations are applied here to every input, in blocks and without data).
"""

from __future__ import annotations

import torch


def hadamard(size: int, device: torch.device | str | None = None) -> torch.Tensor:
    """The orthonormal, symmetric Hadamard matrix of Sylvester, float32 ``[size, size]``; `size` a power of two."""
    matrix = torch.ones(1, 1, device=device)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix / size**0.5


def rotate(real: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`real`, ``[..., n]``, with each block of ``matrix.shape[0]`` numbers multiplied by `matrix`; float32.

    With a matrix from `hadamard` this is its own inverse.
    """
    blocks = real.to(torch.float32).unflatten(-1, (-1, matrix.shape[0]))
    return (blocks @ matrix).flatten(-2)
