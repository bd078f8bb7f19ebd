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
    return _rounded(weight_matrix(module).detach(), scheme, name)


@torch.no_grad()
def weight_changes(
    modules: Sequence[nn.Module], schemes: Sequence[Scheme | None], name: str
) -> Iterator[tuple[int, Tensor]]:
    """Index of each scheme that fits, and what it changes of weights: ``Q(W) - W``, float32 ``[out, in]``.

    Each tensor is new and may be written to.

    Args:
        modules: Modules of one width, whose rows are put together.
        schemes: Schemes fitted to the modules; None where one does not fit.
        name: Name of the modules, for error messages.
    """
    weights = [weight_matrix(module).detach() for module in modules]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    real = weight.to(torch.float32)
    for index, scheme in enumerate(schemes):
        if scheme is not None:
            # Rows of one module share a scale, but not with another's.
            parts = weights if scheme.weight.granularity == "tensor" else [weight]
            yield index, torch.cat([_rounded(part, scheme, name) for part in parts]).sub_(real)


def _rounded(weight: Tensor, scheme: Scheme, name: str) -> Tensor:
    if scheme.weight.has_scales:
        return rounded_weight(weight, scheme.weight, name)
    return weight.to(float_format(scheme.weight).dtype).to(torch.float32)


def rounded_inputs(calls: Sequence[Tensor], scheme: Scheme, seen: Tensor | None = None) -> Tensor:
    """Inputs of linears in several calls as their scheme rounds them, float32 ``[tokens of all, width]``.

    Static ranges are those of the rows `seen`, ``[rows, width]``, or of all tokens where it is None or has no rows.
    """
    # Tokens of one call may share a scale, but not with another's.
    parts = calls if scheme.input is not None and scheme.input.granularity == "tensor" else [torch.cat(list(calls))]
    ranged = [tokens if seen is None or not len(seen) else seen for tokens in parts]
    pairs = zip(parts, ranged, strict=True)
    return torch.cat([rounded_input(tokens, scheme, rows.abs().amax(0)) for tokens, rows in pairs])


def input_errors(
    calls: Sequence[Tensor], schemes: Sequence[Scheme | None], weigh: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, float]]:
    """Index of each scheme that rounds inputs, and its error; schemes that round alike are computed once.

    Args:
        calls: Inputs of each call of the module, or of experts that are measured as one, float32 ``[tokens, width]``.
        schemes: Schemes fitted to the module; None where one does not fit.
        weigh: Function from the change ``Q(x) - x``, float32 ``[tokens of all, width]``, to an error; it may write to
            it.
    """
    tokens = torch.cat(list(calls))
    known: dict[Any, float] = {}
    for index, scheme in enumerate(schemes):
        if scheme is None or scheme.input is None:
            continue
        key = (scheme.input, scheme.weight.rotation)
        if key not in known:
            known[key] = float(weigh(rounded_inputs(calls, scheme) - tokens))
        yield index, known[key]
