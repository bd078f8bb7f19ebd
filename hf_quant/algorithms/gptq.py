"""GPTQ: each input's rounding error is made up for by the inputs after it (Frantar et al., arXiv:2210.17323).

With ``H`` the Hessian and ``S`` the upper triangular matrix of ``H = S S^T``, the error of a row's outputs is

    (w - q) H (w - q)^T = |(w - q) S|^2,  where  ((w - q) S)_k = S_kk (w_k - q_k) + sum_{j < k} (w_j - q_j) S_jk.

Rounding ``w_k + sum_{j < k} (w_j - q_j) S_jk / S_kk``, input after input, makes each term as small as the grid allows.
This is the paper's algorithm (Chen et al., arXiv:2507.18553, show that it is Babai's), but takes one Cholesky
factorisation where the paper inverts ``H`` and factorises the inverse.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_quant.algorithms.base import InputStatistics, QuantizedWeight
from hf_quant.algorithms.grids import Clipping, Grid, choose
from hf_quant.algorithms.hessian import hessian_of
from hf_quant.algorithms.rtn import blocks_of, check_shape, checked_range, grid_of_all, rows_of
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.base import Format
from hf_quant.registry import unknown

logger = logging.getLogger(__name__)

GRIDS: dict[str, Clipping | None] = {"minmax": None, "mse": Clipping()}
"""Name of a choice of scales to the ranges it tries."""

_ROWS = 2048
"""Rows that are worked on at a time, which bounds the temporaries."""


@dataclass(frozen=True)
class GPTQ:
    """Codes that keep the outputs of the calibration data, on grids fixed beforehand.

    A row that rounding to nearest serves better, which happens since errors are made up for greedily, is rounded to
    nearest; so is every input that calibration saw only zeros of.

    Args:
        block_size: Inputs whose errors are applied to the inputs after them at once. Changes only the speed, and the
            last bits of sums.
        damping: Share of the mean of the Hessian's diagonal that is added to the diagonal, between 0 and 1. Where the
            Hessian is not positive definite then, the share is raised tenfold, up to 1.
        activation_order: Whether to take the inputs by falling mean square, so that the largest errors are made up for
            by the most inputs. Groups keep their inputs.
        grid: Source of scales: ``"minmax"``: extremes of channels and groups; ``"mse"``: clipped to the least squared
            error, weighed by the inputs' mean squares.

    Raises:
        ConfigError: An option is out of range.
    """

    block_size: int = 128
    damping: float = 0.01
    activation_order: bool = True
    grid: str = "minmax"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})

    def __post_init__(self) -> None:
        if isinstance(self.block_size, bool) or not isinstance(self.block_size, int) or self.block_size < 1:
            raise ConfigError(f"block_size must be a positive integer, not {self.block_size!r}")
        if not isinstance(self.damping, float) or not 0 < self.damping <= 1:
            raise ConfigError(f"damping must be a number above 0 and up to 1, such as 0.01, not {self.damping!r}")
        if not isinstance(self.activation_order, bool):
            raise ConfigError(f"activation_order must be true or false, not {self.activation_order!r}")
        if self.grid not in GRIDS:
            raise ConfigError(unknown("grid", self.grid, GRIDS))

    def least_tokens(self, width: int) -> int:
        """As many as inputs: errors go where the Hessian of fewer tokens, which is singular, has seen nothing."""
        return width

    def solve(
        self, weight: torch.Tensor, scheme: TensorScheme, name: str, inputs: InputStatistics | None = None
    ) -> QuantizedWeight:
        """Quantize ``[rows, width]`` floats of any float dtype; `name` is for error messages.

        Raises:
            ConfigError: `inputs` lack the Hessian.
            WeightError: The weight or the Hessian holds NaN or Inf, has a shape that cannot be quantized, or the
                Hessian is not positive definite even with the most damping.
        """
        check_shape(weight, name)
        hessian = hessian_of(inputs, weight.shape[1], scheme, name, weight.device)
        rows, width = weight.shape
        format = format_of(scheme)
        clipping = GRIDS[self.grid]
        hessian = _normalized(hessian)
        importance = hessian.diagonal()
        whole = grid_of_all(weight, scheme, name, clipping, importance) if scheme.granularity == "tensor" else None
        order = torch.arange(width, device=weight.device)
        if self.activation_order:
            order = torch.argsort(importance, descending=True, stable=True)
        lower = self._factor(hessian, order, name)
        codes, grids = [], []
        for start in range(0, rows, _ROWS):
            real = rows_of(weight[start : start + _ROWS], scheme)
            grid = whole or _grid_of_rows(real, scheme, name, clipping, importance)
            nearest = _nearest(real, grid, format)
            found = _compensated(real, grid, format, order, lower, self.block_size)
            errors = [_output_error(real, candidate, grid, format, hessian) for candidate in (found, nearest)]
            # Also where the sums are NaN or infinite, as those of enormous weights.
            found = torch.where((errors[0] < errors[1])[:, None], found, nearest)
            codes.append(format.pack(found))
            grids.append(grid)
        if whole is not None:
            grids = [whole]
        scale = torch.cat([scale for scale, _ in grids])
        zero_points = [zero_point for _, zero_point in grids if zero_point is not None]
        zero_point = torch.cat(zero_points) if zero_points else None
        return format.stored(torch.cat(codes), (scale, zero_point), name)

    def _factor(self, hessian: torch.Tensor, order: torch.Tensor, name: str) -> torch.Tensor:
        """float32 ``[width, width]``, lower triangular: row `k` holds ``S_jk / S_kk`` for all `j` up to `k`.

        Rows and columns are those of `hessian` in `order`. For wide layers this is what takes the most memory in a run:
        beside `hessian`, twice its bytes.
        """
        # Turned end for end, the usual lower factor is the upper one wanted.
        order = order.flip(0)
        damping = self.damping
        while True:
            # float64: small pivots decide.
            damped = hessian.new_empty(hessian.shape, dtype=torch.float64)
            for row, at in enumerate(order.split(_ROWS)):
                damped[row * _ROWS : row * _ROWS + len(at)] = hessian[at][:, order]
            damped.diagonal().add_(damping)
            factor, failed = _lower_factor(damped)
            del damped
            if not failed:
                break
            if damping >= 1:
                raise WeightError(
                    f"the Hessian of the inputs of {name} is far from positive definite: calibrate on more data, use "
                    'the solver "rtn" for it, or keep the module float with modules_to_not_convert'
                )
            damping = min(damping * 10, 1.0)
        if damping != self.damping:
            logger.warning(
                "GPTQ: damping of %s was raised from %g to %g; calibrate on more data", name, self.damping, damping
            )
        factor = factor.div_(factor.diagonal().clone()).to(torch.float32)
        return factor.flip(0, 1).t().contiguous()


def _lower_factor(symmetric: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Cholesky factor of a float64 matrix, and whether there is none. `symmetric` may be overwritten."""
    if symmetric.device.type != "cpu":
        factor, info = torch.linalg.cholesky_ex(symmetric)
    else:
        # In place: LAPACK works on columns, which the rows of a symmetric matrix are, too.
        factor, info = symmetric.t(), torch.empty((), dtype=torch.int32)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
    return factor, bool(info)


def _normalized(hessian: torch.Tensor) -> torch.Tensor:
    """The Hessian with a diagonal of mean 1. Inputs that are always zero are taken to be unit noise of their own."""
    dead = hessian.diagonal() <= 0
    if bool(dead.all()):
        return torch.eye(len(hessian), device=hessian.device)
    mean = hessian.diagonal()[~dead].double().mean()
    hessian = torch.cat([(rows.double() / mean).to(torch.float32) for rows in hessian.split(_ROWS)])
    hessian[dead] = 0
    hessian[:, dead] = 0
    hessian.diagonal()[dead] = 1
    return hessian


def _grid_of_rows(
    real: torch.Tensor, scheme: TensorScheme, name: str, clipping: Clipping | None, importance: torch.Tensor
) -> Grid:
    groups = real.shape[1] // scheme.group_size if scheme.group_size else 1
    scales, zero_points = [], []
    for part in blocks_of(*real.shape):
        block = real[part].unflatten(-1, (groups, -1))
        low, high = checked_range(block, -1, name)
        scale, zero_point = choose(block, low, high, format_of(scheme), clipping, importance.view(groups, -1))
        scales.append(scale)
        zero_points += [] if zero_point is None else [zero_point]
    return torch.cat(scales), torch.cat(zero_points) if zero_points else None


def _nearest(real: torch.Tensor, grid: Grid, format: Format) -> torch.Tensor:
    """Codes ``[rows, width]`` of the nearest levels of a grid."""
    scale, zero_point = grid
    grouped = real.unflatten(-1, (scale.shape[1], -1))
    return format.encode(grouped, scale[..., None], None if zero_point is None else zero_point[..., None]).flatten(-2)


def _output_error(
    real: torch.Tensor, codes: torch.Tensor, grid: Grid, format: Format, hessian: torch.Tensor
) -> torch.Tensor:
    """Squared error of each row's output, ``(w - q) H (w - q)^T``: ``[rows]``."""
    scale, zero_point = grid
    grouped = codes.unflatten(-1, (scale.shape[1], -1))
    decoded = format.decode(grouped, scale[..., None], None if zero_point is None else zero_point[..., None])
    error = real - decoded.flatten(-2)
    return (error @ hessian).mul_(error).sum(-1)


def _compensated(
    real: torch.Tensor,
    grid: Grid,
    format: Format,
    order: torch.Tensor,
    lower: torch.Tensor,
    block_size: int,
) -> torch.Tensor:
    """Codes ``[rows, width]``, found input after input in `order`, for all rows at once."""
    rows, width = real.shape
    # Inputs first: what is read and written at a time then lies together.
    real = real.t()[order].contiguous()
    target = real.clone()
    error = torch.empty_like(real)
    codes = []
    scale = grid[0].t().expand(-1, rows).contiguous()
    zero = [None] * len(scale) if grid[1] is None else [*grid[1].t().to(torch.float32).expand(-1, rows).contiguous()]
    inverse = scale.reciprocal()
    groups = (order // (width // len(scale))).tolist()
    for start in range(0, width, block_size):
        stop = min(start + block_size, width)
        for at in range(start, stop):
            group = groups[at]
            wanted = torch.addmv(target[at], error[start:at].t(), lower[at, start:at])
            levels = format.nearest(wanted.mul_(inverse[group]), zero[group])
            torch.sub(real[at], levels * scale[group], out=error[at])
            codes.append(format.codes_of(levels, zero[group]))
        target[stop:].addmm_(lower[stop:, start:stop], error[start:stop])
    found = torch.stack(codes)
    ordered = torch.empty_like(found)
    ordered[order] = found
    return ordered.t().contiguous()
