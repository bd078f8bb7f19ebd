"""What schemes make of a module's weight and inputs, for measures to weigh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.algorithms.rounding import rounded_input, rounded_weight
from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.scheme import Scheme
from hf_quant.formats import float_format


@torch.no_grad()
def quantized_weight(module: nn.Module, scheme: Scheme, name: str) -> Tensor:
    """A module's weight after rounding to nearest or being stored in a smaller float, float32 ``[out, in]``.

    Raises:
        WeightError: The weight holds NaN or Inf.
    """
    weight = weight_matrix(module).detach()
    if scheme.weight.has_scales:
        return rounded_weight(weight, scheme.weight, name)
    return weight.to(float_format(scheme.weight).dtype).to(torch.float32)


@torch.no_grad()
def weight_changes(module: nn.Module, schemes: Sequence[Scheme | None], name: str) -> Iterator[tuple[int, Tensor]]:
    """Index of each scheme that fits, and what it changes of the weight: ``Q(W) - W``, float32 ``[out, in]``.

    Each tensor is new and may be written to.
    """
    weight = weight_matrix(module).detach().to(torch.float32)
    for index, scheme in enumerate(schemes):
        if scheme is not None:
            yield index, quantized_weight(module, scheme, name) - weight


def rounded_inputs(tokens: Tensor, scheme: Scheme, seen: Tensor | None = None) -> Tensor:
    """A linear's inputs as its scheme rounds them, float32 ``[tokens, width]``.

    Static ranges are those of the rows `seen`, ``[rows, width]``, or of all tokens where it is None or has no rows.
    """
    ranged = tokens if seen is None or not len(seen) else seen
    return rounded_input(tokens, scheme, ranged.abs().amax(0))


def input_errors(
    tokens: Tensor, schemes: Sequence[Scheme | None], weigh: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, float]]:
    """Index of each scheme that rounds inputs, and its error; schemes that round alike are computed once.

    Args:
        tokens: Inputs of the module, float32 ``[tokens, width]``.
        schemes: Schemes fitted to the module; None where one does not fit.
        weigh: Function from the change ``Q(x) - x``, float32 ``[tokens, width]``, to an error; it may write to it.
    """
    known: dict[Any, float] = {}
    for index, scheme in enumerate(schemes):
        if scheme is None or scheme.input is None:
            continue
        key = (scheme.input, scheme.weight.rotation)
        if key not in known:
            known[key] = float(weigh(rounded_inputs(tokens, scheme) - tokens))
        yield index, known[key]
