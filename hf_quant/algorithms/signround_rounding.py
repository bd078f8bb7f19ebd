"""The numbers that SignRound learns for one weight, and how signs of gradients move them (arXiv:2309.05516, eq. 3)."""

from __future__ import annotations

import torch

from hf_quant.algorithms.base import QuantizedWeight
from hf_quant.algorithms.rtn import check_shape, rows_of
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from hf_quant.formats import even_format

_CHUNK = 1 << 17
"""Weights handled at a time, so that the temporaries of a step stay in cache."""

_LEAST_CLIP = 0.01
"""Smallest share of a range that is kept: a scale of zero could not grow again."""


class LearnedRounding:
    """One weight whose roundings and range are learned: offsets ``V``, and shares ``alpha`` and ``beta`` of the range.

    ``levels = clamp(round(W / s + V), min - zp, max - zp)``, which decode to ``levels * s``.

    The grid ``s, zp`` is that of the format on ``[alpha * lowest, beta * highest]``, so that ``V = 0, alpha = beta =
    1``, where it starts, is rounding to nearest. Where scales have a sign, only the end that decides it is learned.
    Gradients go straight through every rounding, and for ``V`` and the scale not past a clamp.

    `weight`, ``[rows, width]`` in float32, always holds what the present numbers decode to, in the rotated space where
    the scheme rotates. Its `grad` is what `step` reads.

    Args:
        weight: Float weight ``[rows, width]``; never written to.
        scheme: Format with an even grid.
        name: Name of the weight, for error messages.

    Raises:
        WeightError: The weight holds NaN or Inf, or is not a matrix with elements.
    """

    def __init__(self, weight: torch.Tensor, scheme: TensorScheme, name: str):
        check_shape(weight, name)
        self.scheme, self.name = scheme, name
        self.format = even_format(scheme, "signround")
        rows, width = weight.shape
        groups = width // scheme.group_size if scheme.group_size else 1
        self._real = rows_of(weight, scheme).contiguous().unflatten(-1, (groups, -1))
        if scheme.granularity == "tensor":
            low, high = (extreme.view(1, 1, 1) for extreme in torch.aminmax(self._real))
        else:
            low, high = torch.aminmax(self._real, dim=-1, keepdim=True)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise WeightError(f"{name} holds NaN or Inf: repair the checkpoint, or keep the module float")
        if self.format.has_signed_scales:
            # The other side counts for nothing, so that clips never change the sign.
            negative = self.format.weight_grid(low, high)[0] < 0
            low, high = torch.where(negative, 0, low), torch.where(negative, high, 0)
        self._low, self._high = low, high
        self._alpha, self._beta = torch.ones_like(low), torch.ones_like(high)
        self._offset = torch.zeros_like(self._real)
        self._parts = [
            slice(start, start + max(1, _CHUNK // width)) for start in range(0, rows, max(1, _CHUNK // width))
        ]
        self.weight = torch.empty(rows, width, device=weight.device).requires_grad_()
        self._refresh()

    @torch.no_grad()
    def step(self, rate: float, clip_rate: float) -> None:
        """Move every number against the sign of its gradient: ``V`` by `rate`, ``alpha`` and ``beta`` by `clip_rate`.

        Takes the gradient of `weight`, and leaves it None. Without one, as of an expert that no token of a step was
        sent to, nothing moves.
        """
        if self.weight.grad is None:
            return
        gradient = self.weight.grad.view_as(self._real)
        by_scale = torch.empty(*self._real.shape[:2], 1, device=gradient.device)
        by_zero_point = torch.zeros_like(by_scale)
        for part in self._parts:
            wide = self._rounded(part)
            levels = wide.clamp(self._least[part], self._most[part])
            # As floats: products of two dtypes take a slow path.
            inside = (wide == levels).to(torch.float32)
            slope = levels.addcmul_(self._real[part] * self._inverse[part], inside, value=-1)
            by_scale[part] = slope.mul_(gradient[part]).sum(-1, keepdim=True)
            if not self.scheme.symmetric:
                by_zero_point[part] = (gradient[part] * (inside - 1)).sum(-1, keepdim=True)
            direction = gradient[part].sign().mul_(self._scale[part].sign())
            self._offset[part].addcmul_(direction, inside, value=-rate).clamp_(-0.5, 0.5)
        if self.scheme.granularity == "tensor":
            by_scale, by_zero_point = by_scale.sum(0, keepdim=True), by_zero_point.sum(0, keepdim=True)
        by_alpha, by_beta = self._by_clips(by_scale, by_zero_point)
        self._alpha.sub_(by_alpha.sign_(), alpha=clip_rate).clamp_(_LEAST_CLIP, 1)
        self._beta.sub_(by_beta.sign_(), alpha=clip_rate).clamp_(_LEAST_CLIP, 1)
        self.weight.grad = None
        self._refresh()

    @torch.no_grad()
    def solved(self) -> QuantizedWeight:
        """The quantized weight as learned so far, whose codes decode to `weight` bit for bit."""
        codes = []
        for part in self._parts:
            levels = self._rounded(part).clamp_(self._least[part], self._most[part])
            # A scale of one: these are codes already, for the format to bring into its range and dtype.
            encoded = self.format.encode(levels, torch.ones_like(self._scale[part]), self._zeros(part))
            codes.append(self.format.pack(encoded.flatten(-2)))
        shape = slice(0, 1) if self.scheme.granularity == "tensor" else slice(None)
        scale = self._scale[shape].squeeze(-1).clone()
        zeros = self._zeros(shape)
        zero_point = None if zeros is None else zeros.squeeze(-1).to(self.format.dtype)
        return self.format.stored(torch.cat(codes), (scale, zero_point), self.name)

    def _refresh(self) -> None:
        """Compute the grid from the clips, and `weight` from all."""
        scale, zeros = self.format.weight_grid(self._alpha * self._low, self._beta * self._high)
        zero_point = torch.zeros_like(scale) if zeros is None else zeros.to(torch.float32)
        grids = (scale, zero_point, scale.reciprocal(), self.format.quant_min - zero_point)
        # Per tensor these are views of one number, which are cut into parts like any others.
        whole = (*self._real.shape[:2], 1)
        self._scale, self._zero_point, self._inverse, self._least = (grid.expand(whole) for grid in grids)
        self._most = (self.format.quant_max - zero_point).expand(whole)
        decoded = self.weight.detach().view_as(self._real)
        for part in self._parts:
            levels = self._rounded(part).clamp_(self._least[part], self._most[part])
            torch.mul(levels, self._scale[part], out=decoded[part])

    def _rounded(self, part: slice) -> torch.Tensor:
        return torch.addcmul(self._offset[part], self._real[part], self._inverse[part]).round_()

    def _zeros(self, part: slice) -> torch.Tensor | None:
        return None if self.scheme.symmetric else self._zero_point[part]

    def _by_clips(self, by_scale: torch.Tensor, by_zero_point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of ``alpha`` and ``beta``, up to a positive factor.

        `by_zero_point` is the sum of ``-gradient`` over clamped weights, to be multiplied with the scale.
        """
        low, high = self._alpha * self._low, self._beta * self._high
        if self.scheme.symmetric:
            # The size of the scale follows the larger side.
            by_size = by_scale * self._scale[: low.shape[0]].sign()
            largest = torch.maximum(low.abs(), high.abs())
            of_low, of_high = ((side.abs() == largest) & (side != 0) for side in (low, high))
            return by_size * of_low, by_size * of_high
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = self._scale[: low.shape[0]]
        levels = self.format.quant_max - self.format.quant_min
        # scale = (high - low) / levels; zero point = min - low / scale.
        by_range = (by_scale + by_zero_point * low / scale) / levels
        return (by_range + by_zero_point) * (low < 0), by_range * (high > 0)
