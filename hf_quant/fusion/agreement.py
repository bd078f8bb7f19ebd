"""Rows on which two ways of computing the same must agree, and what it means that they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

ROUNDING = 1e-5
"""Rounding of float32 with sums in another order, relative to the largest number of a row."""

STEP = 2**-7
"""Step of inputs of 8 bits, relative to the largest: a number may be rounded to the next code."""

SCALES = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 8.0, 64.0, 1e3, 1e4, 1e5, 1e6)
"""Magnitudes of test rows, from where an epsilon matters to where clamps of half precision are reached."""

TINY = 1e-30


def rows(width: int, seed: int = 0, scales: Sequence[float] = SCALES) -> torch.Tensor:
    """Test rows, float32 ``[count, width]``: at each scale around zero, with a mean, of one sign, with outliers; zeros.

    Args:
        width: Numbers in a row.
        seed: Seed of the random numbers.
        scales: Magnitudes of the rows, four rows for each; four rows of zeros are added.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    made = []
    for scale in scales:
        plain, shifted, positive, spiky = torch.randn(4, width, generator=generator, dtype=torch.float32, device="cpu")
        spiky[torch.randint(width, (1 + width // 256,), generator=generator, device="cpu")] *= 1000.0
        made += [scale * row for row in (plain, shifted + 1.5, positive.abs(), spiky)]
    return torch.stack([*made, *[torch.zeros(width, dtype=torch.float32, device="cpu")] * 4])


def shapes(given: torch.Tensor) -> list[torch.Tensor]:
    """All rows ``[count, width]`` in three dimensions, and eight of them in two, three and four, as inputs may come."""
    width = given.shape[-1]
    # An odd step goes through all kinds of rows.
    few = given[:: len(given) // 8 | 1][:8]
    return [few, few.view(1, 8, width), few.view(2, 2, 2, width), given.view(4, -1, width)]


def agree(found: object, expected: object, tolerance: float = ROUNDING) -> bool:
    """Whether two tensors have the same shape and dtype and the same numbers, element by element.

    Args:
        found: Result of one way.
        expected: Result of the other way. Where it is not finite, nothing is asked of `found`.
        tolerance: Largest difference, relative to the largest number of each row of `expected`.
    """
    if not (isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)):
        return False
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    finite = expected.isfinite()
    found, expected = found.float(), expected.float().where(finite, 0.0)
    difference = (found - expected).abs().where(finite, 0.0)
    # A NaN of `found` compares as false.
    return bool((difference <= tolerance * expected.abs().amax(-1, keepdim=True) + TINY).all())


@torch.no_grad()
def ways_agree(
    known: Callable[..., object],
    claimed: Callable[..., object],
    cases: Iterable[tuple[torch.Tensor, ...]],
    tolerance: float = ROUNDING,
) -> bool:
    """Whether two functions `agree` on all inputs that the first takes, and it takes some.

    Args:
        known: Function that is in use. Where it raises, as it may for tensors of other dimensions, nothing is compared.
        claimed: Function that is to take its place.
        cases: Inputs of both functions to compare on.
        tolerance: Largest difference, relative to the largest number of a row; see `agree`.
    """
    taken = False
    for inputs in cases:
        expected = output(known, *inputs)
        if expected is None:
            continue
        taken = True
        if not agree(output(claimed, *inputs), expected, tolerance):
            return False
    return taken


@torch.no_grad()
def output(call: Callable[..., object], *inputs: object) -> object:
    """What `call` gives; None where it raises, as a module does that takes other arguments."""
    try:
        return call(*inputs)
    except Exception:  # it needs what is not there: no part of the kind
        return None
