"""AWQ (Lin et al., arXiv:2306.00978): weights on large inputs are scaled up, so that rounding them costs less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_quant.algorithms.base import Transformed
from hf_quant.algorithms.pair_error import PairError, pair_errors
from hf_quant.calibration.pairs import Pair
from hf_quant.calibration.statistics import InputStatistics
from hf_quant.config.scheme import Scheme

_STEPS = 20
_LEAST = 1e-4


class Awq:
    """Scales ``s = mean|X|^ratio`` (eq. 4 and 5), the ratio searched for each pair.

    Ratios are 0, 0.05, ... 0.95; 0 leaves a pair as it is. The one with the least error of the consumers' outputs is
    taken, with weights rounded to nearest and inputs as they are. The error comes from the inputs' second moments,
    which is exact for linear consumers: no inputs are kept and nothing is run again.
    """

    needs: frozenset[str] = frozenset({"mean_abs", "hessian"})

    @torch.no_grad()
    def apply(
        self,
        block: nn.Module,
        pairs: Sequence[Pair],
        inputs: Mapping[str, InputStatistics],
        schemes: Mapping[str, Scheme],
    ) -> Transformed:
        """Scale the pairs of `block` in place; see `Transform`."""
        done = Transformed(dict(inputs), [])
        for error in pair_errors(block, pairs, done.inputs, schemes, self.needs, "awq"):
            scales, line = _best_scales(error)
            error.commit(block, scales, done.inputs)
            done.report.append(f"{error}: {line}")
        return done


def activation_scales(error: PairError, ratio: float) -> Tensor:
    """AWQ's scales ``[width]``: ``mean|X|^ratio`` over the root of its extremes' product; 1 for inputs always 0."""
    mean_abs = error.shared(error.inputs.mean_abs, "mean")
    alive = mean_abs > 0
    if not bool(alive.any()):
        return torch.ones_like(mean_abs)
    scales = mean_abs.pow(ratio).clamp(min=_LEAST)
    low, high = torch.aminmax(scales[alive])
    return error.allowed((scales / (low * high).sqrt()).where(alive, 1.0))


def _best_scales(error: PairError) -> tuple[Tensor, str]:
    best = torch.ones_like(error.inputs.mean_abs)
    before = least = error.of_weights(best)
    line = "left as it is: no ratio lowers the error"
    for step in range(1, _STEPS):
        scales = activation_scales(error, step / _STEPS)
        found = error.of_weights(scales)
        if found < least:
            least, best = found, scales
            line = f"ratio {step / _STEPS:.2f}, squared error {found / before:.3f} of what it was"
    return best, line
