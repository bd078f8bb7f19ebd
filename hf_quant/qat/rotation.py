"""The numbers of `formats.rotation.rotate`, bit for bit, for the many rows of a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_quant.config.scheme import ROTATIONS

_CHUNK = 1 << 17
"""Numbers handled at a time, so that every step but the first finds them in the cache."""

# As float32 arithmetic gives them. Made here, since a compiled graph cannot ask a tensor for its number.
_FACTORS = {size: torch.tensor(float(size), device="cpu").sqrt().reciprocal().item() for size in ROTATIONS}


def rotate_rows(real: Tensor, size: int) -> Tensor:
    """Multiply each block of `size` numbers of ``[..., n]`` with the orthonormal Hadamard matrix; float32.

    Blocks are turned to columns first, so that every step of the butterfly adds long rows: less than half the time of
    adding neighbours. Not for tensors that want a gradient: see `Rotate`.

    Args:
        real: Floats ``[..., n]``; `size` divides ``n``.
        size: Numbers in a block, one of `ROTATIONS`.
    """
    blocks = real.to(torch.float32).reshape(-1, size)
    rotated = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    count = max(1, _CHUNK // size)
    for start in range(0, blocks.shape[0], count):
        part = blocks[start : start + count]
        then = torch.empty(size, part.shape[0], device=part.device)
        now = torch.empty_like(then)
        then.copy_(part.t())
        step = 1
        while step < size:
            before, after = (each.view(-1, 2, step * part.shape[0]) for each in (then, now))
            torch.add(before[:, 0], before[:, 1], out=after[:, 0])
            torch.sub(before[:, 0], before[:, 1], out=after[:, 1])
            now, then = then, now
            step *= 2
        rotated[start : start + count].copy_(then.mul_(_FACTORS[size]).t())
    return rotated.view(real.shape)
