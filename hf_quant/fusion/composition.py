"""Whether a block is a composition of its linears and what is known to lie between them, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from hf_quant.fusion.agreement import rows, shapes, ways_agree
from hf_quant.fusion.stand_in import stand_in


def composes(
    module: nn.Module,
    names: Sequence[str],
    known: Callable[..., Any],
    claimed: Callable[..., Any],
    widths: Callable[[Sequence[nn.Linear]], tuple[int, ...]],
) -> bool:
    """Whether two functions of a block are the same to float rounding, for linears of any weights, in any dimensions.

    Args:
        module: A block with quantized linears, which are not called: copies with exact maps are.
        names: Names of the block's linears.
        known: Function ``(module, *inputs)``: what the block computes.
        claimed: Function ``(module, *inputs)``: what is composed of the block's parts, step by step.
        widths: Function from the linears to the widths of the block's inputs.
    """
    for biased in (True, False):
        generator = torch.Generator(device="cpu").manual_seed(int(biased))
        try:
            copied = stand_in(module, generator, biased)
        except Exception:  # a class that is not copied by its attributes is left alone
            return False
        linears: list[Any] = [copied.get_submodule(name) for name in names]
        drawn = [rows(width, seed) for seed, width in enumerate(widths(linears))]
        if biased:
            # Small ones beside large ones.
            drawn[1:] = [each.roll(17, dims=0) for each in drawn[1:]]
        cases = list(zip(*map(shapes, drawn), strict=True))[0 if biased else -1 :]
        if not ways_agree(partial(known, copied), partial(claimed, copied), cases):
            return False
    return True
