"""Rounding to a grid and back in one pass, with the gradients that training takes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_quant.formats.base import Format

STRAIGHT, LSQ, PACT = "straight", "lsq", "pact"
"""Gradients; see `FakeQuantize`."""

_CHUNK = 1 << 17
"""Numbers handled at a time, so that all steps but the first read find them in the cache."""


class FakeQuantize(torch.autograd.Function):
    """Fake quantization: ``nearest level(real / scale) * scale``, row by row.

    The arithmetic is that of `Format.encode` and `decode`, in the dtype of `real`; NaN stays NaN. Nothing is
    saved but the arguments: what the backward pass needs besides, it computes again.

    With ``v = real / scale``, ``q`` the level, and *inside* where nothing was clipped:

    - ``"straight"``: 1 for `real`, nothing for the grid. For grids taken from `real` itself, which clip nothing.
    - ``"lsq"`` (Esser et al., arXiv:1902.08153; LSQ+, arXiv:2004.09576): for `real` 1 inside, else 0; for `scale`
      ``q - v`` inside, else ``q``; for `zero_point` 0 inside, else ``-scale``. These are the derivatives of the
      function whose rounding is the identity.
    - ``"pact"`` (Choi et al., arXiv:1805.06085): as ``"lsq"``, without the term ``q - v`` of rounding.

    Arguments of `apply`: `real` ``[rows, n]``, `scale` ``[rows, 1]`` or ``[1, 1]``, `zero_point` of that shape and
    dtype, whole numbers, or None; the format; the name of the gradient; the factor that gradients of
    `scale` and `zero_point` are multiplied with.
    """

    @staticmethod
    def forward(
        ctx: Any,
        real: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        format: Format,
        gradient: str,
        gradient_scale: float = 1.0,
    ) -> Tensor:
        """The numbers rounded to the grid, ``[rows, n]``."""
        ctx.gradient, ctx.gradient_scale, ctx.format = gradient, gradient_scale, format
        if gradient != STRAIGHT:
            ctx.save_for_backward(real, scale, zero_point)
        rounded = torch.empty_like(real, memory_format=torch.contiguous_format)
        for part in _parts(real):
            steps, at, zero = rounded[part], _at(scale, part), _at(zero_point, part)
            torch.mul(real[part], at.reciprocal(), out=steps)
            format.nearest(steps, zero)
            steps *= at
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Gradients of the numbers, the scale and the zero point, each of its shape."""
        (gradient,) = gradients
        if ctx.gradient == STRAIGHT:
            return gradient, None, None, None, None, None
        real, scale, zero_point = ctx.saved_tensors
        format: Format = ctx.format
        of_real = torch.empty_like(real, memory_format=torch.contiguous_format)
        of_scale = torch.zeros_like(scale)
        of_zero = None if zero_point is None else torch.zeros_like(scale)
        needs_grid = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        for part in _parts(real):
            numbers, incoming = real[part], gradient[part]
            at, zero = _at(scale, part), _at(zero_point, part)
            steps = format.position(numbers * at.reciprocal(), zero)
            # Zero where a number was clipped.
            inside = torch.ops.aten.hardtanh_backward(incoming, steps, *format.span)
            of_real[part] = inside
            if not needs_grid:
                continue
            format.snap(steps, zero)
            if ctx.gradient == LSQ:
                total = (incoming * steps).sum(-1, keepdim=True)
                total -= (inside * numbers).sum(-1, keepdim=True) / at
            else:
                total = ((incoming - inside) * steps).sum(-1, keepdim=True)
            _add(of_scale, part, total)
            if of_zero is not None:
                _add(of_zero, part, (inside.sum(-1, keepdim=True) - incoming.sum(-1, keepdim=True)) * at)
        of_scale *= ctx.gradient_scale
        if of_zero is not None:
            of_zero *= ctx.gradient_scale
        return of_real, of_scale, of_zero, None, None, None


def _parts(real: Tensor) -> list[slice]:
    rows, width = real.shape
    step = max(1, _CHUNK // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _at(grid: Tensor | None, part: slice) -> Any:
    return grid if grid is None or grid.shape[0] == 1 else grid[part]


def _add(total: Tensor, part: slice, rows: Tensor) -> None:
    if total.shape[0] == 1:
        total += rows.sum(0, keepdim=True)
    else:
        total[part] = rows
