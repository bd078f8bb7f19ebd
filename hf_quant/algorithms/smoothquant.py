"""SmoothQuant (Xiao et al., arXiv:2211.10438): outliers of inputs move into the weights, which round easily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_quant.algorithms.base import Transformed
from hf_quant.algorithms.pair_error import PairError, pair_errors
from hf_quant.calibration.pairs import Pair
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.calibration.tracing import is_linear
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError

_STEPS = 20
_BOUND = 1e5
"""Scales further than this from 1 would leave the range of 16-bit floats."""


@dataclass(frozen=True)
class SmoothQuant:
    """Scales ``s = max|X|^alpha / max|W|^(1 - alpha)`` (eq. 4) for linears whose inputs are quantized.

    Args:
        alpha: How much of the difficulty moves to the weights: 0 to 1, or ``"auto"`` for the one of 21 with the least
            error of the outputs, or for no scales where none is better. The part of the error that comes from weights
            is exact, that from inputs an estimate.
        include_linears: Whether to scale pairs whose producer is a linear, too; the paper scales those of norms only.

    Raises:
        ConfigError: `alpha` is neither a number from 0 to 1 nor ``"auto"``.
    """

    alpha: float | str = 0.5
    include_linears: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if self.alpha != "auto" and not (is_number and 0 <= float(self.alpha) <= 1):
            raise ConfigError(f'alpha is a number from 0 to 1 or "auto", not {self.alpha!r}')

    @property
    def needs(self) -> frozenset[str]:
        """Needed input statistics: the largest inputs; for ``"auto"`` also means and the Hessian, for errors."""
        return frozenset({"max_abs", "mean", "hessian"} if self.alpha == "auto" else {"max_abs"})

    @torch.no_grad()
    def apply(
        self,
        block: nn.Module,
        pairs: Sequence[Pair],
        inputs: Mapping[str, InputStatistics],
        schemes: Mapping[str, Scheme],
    ) -> Transformed:
        """Smooth `block` in place; see `Transform`."""
        if not self.include_linears:
            pairs = [pair for pair in pairs if not is_linear(block.get_submodule(pair.producer))]
        schemes = {name: scheme for name, scheme in schemes.items() if scheme.input is not None}
        done = Transformed(dict(inputs), [])
        for error in pair_errors(block, pairs, done.inputs, schemes, self.needs, "smoothquant"):
            if self.alpha == "auto":
                scales, line = _best_scales(error)
            else:
                scales, line = smoothing_scales(error, float(self.alpha)), f"alpha {self.alpha}"
            error.commit(block, scales, done.inputs)
            done.report.append(f"{error}: {line}")
        return done


def smoothing_scales(error: PairError, alpha: float) -> Tensor:
    """SmoothQuant's scales of a pair's inputs, ``[width]``; 1 where an input, or all weights on it, are 0."""
    largest = torch.stack([weight.abs().amax(0) for weight in error.weights.values()]).amax(0)
    largest = error.shared(largest.to(torch.float32), "amax")
    reached = error.shared(error.inputs.max_abs, "amax")
    scales = (reached.pow(alpha) / largest.pow(1 - alpha)).clamp(1 / _BOUND, _BOUND)
    return error.allowed(scales.where((largest > 0) & (reached > 0), 1.0))


def _best_scales(error: PairError) -> tuple[Tensor, str]:
    none = torch.ones_like(error.inputs.max_abs)
    before = least = error.of_weights(none) + error.of_inputs(none)
    best, line = none, "left as it is: no alpha lowers the error"
    for step in range(_STEPS + 1):
        scales = smoothing_scales(error, step / _STEPS)
        found = error.of_weights(scales) + error.of_inputs(scales)
        if found < least:
            least, best = found, scales
            line = f"alpha {step / _STEPS:.2f}, squared error {found / before:.3f} of what it was"
    return best, line
